//! `pillion test`: the `tests` of policy files, on a clock of their own and
//! without a network.

use std::fmt::Write;
use std::path::PathBuf;

use super::admin::NoAnswer;
use crate::config::{self, Environment, Loaded};
use crate::trial;

/// Tries the policies: makes the calls that `tests` in the files describe.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pillion test                       ./pillion.yaml with its policies
  pillion test policies/users.yaml   a policy file by itself

The request takes the sidecar's own path; the caller, the called services and the
time are made up, so nothing is sent and no time passes.
Exit codes: 0; 1 a test failed, or there is none; 78 the configuration is bad.")]
pub(super) struct Args {
    /// Files to try; ./pillion.yaml unless given.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only tests whose name holds this.
    #[arg(short = 'k', long = "only", value_name = "TEXT")]
    only: Option<String>,
}

/// What to print on standard output, and whether all went well.
pub(super) fn run(args: &Args) -> Result<(String, bool), NoAnswer> {
    let usual = [PathBuf::from(super::DEFAULT_FILE)];
    let files = if args.files.is_empty() { &usual[..] } else { &args.files };
    let environment = Environment::process();
    let (mut text, mut passed, mut failed) = (String::new(), 0, 0);
    for file in files {
        let loaded = config::check::load_any(file, &environment);
        let Loaded { model, .. } =
            loaded.map_err(|problems| NoAnswer(problems.to_string(), config::EXIT_CODE))?;
        let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
        for test in model.tests.iter().filter(|test| wanted(&test.name)) {
            match trial::run(&model, test) {
                Ok(()) => {
                    passed += 1;
                    let _ = writeln!(text, "ok    {}", test.name);
                }
                Err(failure) => {
                    failed += 1;
                    let _ = writeln!(text, "FAIL  {} ({})", test.name, test.origin);
                    let _ = writeln!(text, "      {}: {}", failure.origin, failure.why);
                    for seen in &failure.seen {
                        let _ = writeln!(text, "      {seen}");
                    }
                }
            }
        }
    }
    if passed + failed == 0 {
        return Err(NoAnswer("there is no such test: `tests` of a policy file holds them".into(), 1));
    }
    let _ = writeln!(text, "\n{passed} passed, {failed} failed");
    Ok((text, failed == 0))
}
