//! `tests`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{At, Routes};
use crate::base::Reason;
use crate::config::Call;
use crate::config::form::{self, test as shape};
use crate::config::model::{Answer, Expect, Model, Outcome, Status, Step, Test};
use crate::config::problem::Problems;
use crate::config::shape::nearest;

/// The tests of all files, in their order.
pub(super) fn tests(files: &[Routes], model: &mut Model, problems: &mut Problems) {
    for file in files {
        for (index, form) in file.tests.iter().enumerate() {
            let at = At::root(&file.file, &file.root).key("tests").item(index);
            model.tests.extend(test(form, at, problems));
        }
    }
}

fn test(form: &form::Test, at: At<'_>, problems: &mut Problems) -> Option<Test> {
    let (Some(name), Some(call)) = (&form.name, &form.call) else { return None };
    let first = Step {
        after: Duration::ZERO,
        call: with_headers(&call.0, form.headers.as_ref(), at, problems),
        body: form.body.clone().unwrap_or_default().into(),
        upstream: Some(match &form.upstream {
            Some(all) => outcomes(all, at, problems),
            None => vec![well(&call.0)],
        }),
        times: form.times.unwrap_or(1),
        every: form.every.as_ref().map_or(Duration::ZERO, |pause| pause.0),
        expect: expect(form.expect.as_ref(), at, problems),
        origin: at.key("expect").origin(),
    };
    let mut steps = vec![first];
    for (index, form) in form.then.iter().flatten().enumerate() {
        let at = at.key("then").item(index);
        let before = &steps[steps.len() - 1];
        let call = match (&form.call, &form.headers) {
            (None, None) => before.call.clone(),
            (Some(call), headers) => with_headers(&call.0, headers.as_ref(), at, problems),
            (None, headers) => with_headers(&before.call.without_headers(), headers.as_ref(), at, problems),
        };
        let body = form.body.clone().map_or_else(|| before.body.clone(), Into::into);
        steps.push(Step {
            after: form.after.as_ref().map_or(Duration::ZERO, |pause| pause.0),
            call,
            body,
            upstream: form.upstream.as_ref().map(|all| outcomes(all, at, problems)),
            times: form.times.unwrap_or(1),
            every: form.every.as_ref().map_or(Duration::ZERO, |pause| pause.0),
            expect: expect(form.expect.as_ref(), at, problems),
            origin: at.key("expect").origin(),
        });
    }
    let endpoints = form.endpoints.and_then(|count| u8::try_from(count).ok()).unwrap_or(1);
    Some(Test { name: name.0.as_str().into(), origin: at.key("name").origin(), endpoints, steps })
}

/// What a service does where nothing is said.
fn well(call: &Call) -> Outcome {
    let status = if call.is_grpc() { Status::Grpc(0) } else { Status::Http(200) };
    Outcome::Answer(answer(status))
}

fn answer(status: Status) -> Answer {
    Answer { status, after: Duration::ZERO, headers: HeaderMap::new(), body: Default::default() }
}

fn with_headers(
    call: &Call,
    headers: Option<&BTreeMap<String, String>>,
    at: At<'_>,
    problems: &mut Problems,
) -> Call {
    let mut call = call.clone();
    for (name, value) in self::headers(headers, at.key("headers"), problems) {
        if name == HOST && call.to.is_some() {
            let at = at.key("headers").word(name.as_str());
            problems.push(at.problem("the host is the service of `call`: take it out"));
        }
        call.head.headers.append(name, value);
    }
    call
}

fn headers(
    form: Option<&BTreeMap<String, String>>,
    at: At<'_>,
    problems: &mut Problems,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut all = Vec::new();
    for (name, value) in form.into_iter().flatten() {
        let place = at.key(name);
        match (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            (Ok(name), _) if name == CONTENT_LENGTH || name == TRANSFER_ENCODING => {
                let message = format!("`{name}` follows from the body: take it out");
                problems.push(at.word(name.as_str()).problem(message));
            }
            (Ok(name), Ok(value)) => all.push((name, value)),
            (Err(_), _) => {
                problems.push(at.word(name).problem(format!("`{name}` is no name of a header")));
            }
            (_, Err(_)) => problems.push(place.problem("this can't be the value of a header")),
        }
    }
    all
}

fn outcomes(form: &[shape::Outcome], at: At<'_>, problems: &mut Problems) -> Vec<Outcome> {
    let at = at.key("upstream");
    let one = |(index, form): (usize, &shape::Outcome)| match form {
        shape::Outcome::Word(shape::OutcomeWord::Connect) => Outcome::Connect,
        shape::Outcome::Word(shape::OutcomeWord::Reset) => Outcome::Reset,
        shape::Outcome::Word(shape::OutcomeWord::Silence) => Outcome::Silence,
        shape::Outcome::Word(word) => {
            Outcome::Answer(answer(Status::Grpc(word.code().map_or(0, shape::Code::number))))
        }
        shape::Outcome::Status(status) => Outcome::Answer(answer(Status::Http(*status))),
        shape::Outcome::Answer(form) => Outcome::Answer(Answer {
            status: form.status.map_or(Status::Http(200), status),
            after: form.after.as_ref().map_or(Duration::ZERO, |pause| pause.0),
            headers: headers(form.headers.as_ref(), at.item(index).key("headers"), problems)
                .into_iter()
                .collect(),
            body: form.body.clone().unwrap_or_default().into(),
        }),
    };
    form.iter().enumerate().map(one).collect()
}

fn status(form: shape::Status) -> Status {
    match form {
        shape::Status::Code(code) => Status::Grpc(code.number()),
        shape::Status::Http(status) => Status::Http(status),
    }
}

fn expect(form: Option<&shape::Expect>, at: At<'_>, problems: &mut Problems) -> Expect {
    let Some(form) = form else { return Expect::default() };
    let at = at.key("expect");
    let reason = form.reason.as_ref().and_then(|word| match word.0.as_str() {
        "none" => Some(None),
        word => {
            let known = Reason::ALL.into_iter().find(|reason| reason.as_str() == word);
            if known.is_none() {
                let all = Reason::ALL.into_iter().map(Reason::as_str).chain(["none"]);
                let near = nearest(word, all).map(|near| format!("did you mean `{near}`?"));
                let help = near.unwrap_or_else(|| "the page about errors lists them".into());
                problems.push(at.key("reason").problem(format!("`{word}` is no reason")).help(help));
            }
            known.map(Some)
        }
    });
    let (empty, full): (BTreeMap<_, _>, BTreeMap<_, _>) =
        form.headers.clone().unwrap_or_default().into_iter().partition(|(_, value)| value.is_empty());
    let headers = |form: &BTreeMap<String, String>, problems: &mut Problems| {
        headers(Some(form), at.key("headers"), problems)
    };
    let wanted = headers(&full, problems).into_iter().map(|(name, value)| (name, Some(value)));
    let wanted: Vec<_> = wanted.collect();
    let unwanted = headers(&empty, problems).into_iter().map(|(name, _)| (name, None));
    Expect {
        status: form.status.map(status),
        attempts: form.attempts,
        reason,
        route: form.route.as_ref().map(|word| word.0.as_str().into()),
        to: form.to.as_ref().map(|to| to.0.clone()),
        mirrored: form.mirrored.as_ref().map(|to| Some(to.0.clone()).filter(|to| to.as_str() != "none")),
        took: form.took.as_ref().map(|took| match took {
            shape::Took::Range(range) => range.0,
            shape::Took::Most(most) => (Duration::ZERO, most.0),
        }),
        headers: wanted.into_iter().chain(unwanted).collect(),
        body: form.body.clone().map(Into::into),
    }
}
