//! `hedge`: key by key from the route and from its upstream's entry.

use super::set;
use crate::config::form;
use crate::config::model::{Hedge, HedgeIf};

/// What the route leaves open, the upstream's entry may say.
pub(super) fn hedge(own: Option<&form::Hedge>, shared: Option<&form::Hedge>) -> Option<Hedge> {
    let mut hedge = None;
    for form in shared.into_iter().chain(own) {
        let hedge = hedge.get_or_insert_with(Hedge::default);
        set(&mut hedge.after, form.after.as_ref().map(|after| after.0));
        set(&mut hedge.min, form.min.as_ref().map(|span| span.0));
        set(&mut hedge.max, form.max);
        set(&mut hedge.only_if, form.only_if.map(only_if));
    }
    hedge
}

fn only_if(form: form::HedgeIf) -> HedgeIf {
    match form {
        form::HedgeIf::Safe => HedgeIf::Safe,
        form::HedgeIf::Always => HedgeIf::Always,
    }
}
