//! The command line.

mod admin;
mod explain;
mod test;
mod upstreams;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::base::Origin;
use crate::config::schema::Which;
use crate::config::{self, Environment, Loaded, Problems};
use crate::dev;
use crate::kubernetes::redirect;
use crate::run::values::Refused;
use crate::run::{self, Plan};
use crate::telemetry::{Metrics, logging, names};

const DEFAULT_FILE: &str = "pillion.yaml";
/// Whoever edits a policy wants to hear what came of it.
const DEV_LEVEL: &str = "warn,pillion::config::reload=info";

/// A service-mesh sidecar: discovery, retries, timeouts, balancing and metrics
/// for any service, with no library in its code.
#[derive(Debug, Parser)]
#[command(name = "pillion", version, max_term_width = 100)]
pub struct Cli {
    /// What to log: a level, or levels by module (`pillion=debug,h2=warn`).
    #[arg(long, global = true, env = "PILLION_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// How log lines look.
    #[arg(long, global = true, env = "PILLION_LOG_FORMAT", value_enum, default_value = "human")]
    log_format: logging::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Run),
    Dev(Dev),
    Check(Check),
    Schema(Schema),
    Redirect(redirect::Args),
    Upstreams(upstreams::Args),
    Explain(explain::Args),
    Test(test::Args),
}

/// Runs the sidecar, and with `-- CMD` the service behind it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pillion run                             with ./pillion.yaml, or with defaults
  pillion run --name orders --port 8080   beside a service that runs already
  pillion run -- python app.py            starts the service when the sidecar is ready

Exit codes: 0 after a drain; 78 the configuration is bad; 1 the sidecar can't start;
with CMD its own code, 128 + signal, 126 if it can't be run, 127 if it is not there.")]
pub struct Run {
    /// The configuration. Without it ./pillion.yaml, and without that defaults.
    #[arg(short, long, env = "PILLION_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The service's name, where there is no file. Default: the folder's name.
    #[arg(long, env = "PILLION_SERVICE", value_parser = service_name)]
    name: Option<String>,
    /// The port on 127.0.0.1 where the service listens, where there is no file.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The service's command.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs several services of this machine, each with a sidecar, from one file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pillion dev                        all services of ./pillion.dev.yaml
  pillion dev -f shop/pillion.dev.yaml users orders

A `.env` beside the file is read first. Ctrl-C drains and ends all.
Exit codes: 0; 78 the file is bad; 1 a build failed, a sidecar can't start, or every
service has ended and one of them badly.")]
struct Dev {
    /// The services.
    #[arg(short, long, value_name = "FILE", default_value = "pillion.dev.yaml")]
    file: PathBuf,
    /// Where your own shell reaches the mesh; a free port if this one is taken.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8701")]
    front: std::net::SocketAddr,
    /// Only these services.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Reads configuration and policy files and reports everything that is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pillion check                      ./pillion.yaml with its policies
  pillion check policies/*.yaml      policy files by themselves

Exit codes: 0, or 78 if anything is wrong.")]
struct Check {
    /// Files to read; ./pillion.yaml unless given.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Writes the JSON Schema of a file, for editors.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  pillion schema policy > policy.schema.json")]
struct Schema {
    /// Which file.
    #[arg(value_enum, default_value = "pillion")]
    of: SchemaOf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaOf {
    /// `pillion.yaml`.
    Pillion,
    /// A policy file.
    Policy,
    /// `pillion.dev.yaml`.
    Dev,
}

/// Reads the command line, does what it says and returns the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let sink = Arc::new(dev::Sink::new(Box::new(io::stdout()), colored(&io::stdout())));
    if let Err(error) = logging::init(logs(&cli, &sink)) {
        return bad(&error);
    }
    let code = match cli.command {
        Command::Run(run) => start(run, cli.log_format),
        Command::Dev(args) => {
            dev::run(&dev::Plan { file: args.file, only: args.services, front: args.front, sink })
        }
        Command::Check(check) => output(|out| {
            let files = if check.files.is_empty() { vec![DEFAULT_FILE.into()] } else { check.files };
            config::check::check(&files, &Environment::process(), out)
        }),
        Command::Redirect(args) => redirect::run(&args),
        Command::Upstreams(args) => told(upstreams::run(&args)),
        Command::Explain(args) => told(explain::run(&args)),
        Command::Test(args) => match test::run(&args) {
            Ok((text, good)) => output(|out| out.write_all(text.as_bytes()).map(|()| u8::from(!good))),
            Err(why) => told(Err(why)),
        },
        Command::Schema(schema) => output(|out| {
            let which = match schema.of {
                SchemaOf::Pillion => Which::Main,
                SchemaOf::Policy => Which::Policy,
                SchemaOf::Dev => Which::Dev,
            };
            config::check::print_schema(which, out).map(|()| 0)
        }),
    };
    ExitCode::from(code)
}

/// `pillion dev` says little of its sidecars, and says it among the services' lines.
fn logs(cli: &Cli, sink: &Arc<dev::Sink>) -> logging::Options {
    let dev = matches!(cli.command, Command::Dev(_)) && cli.log_format == logging::Format::Human;
    let level = cli.log.clone().unwrap_or_else(|| if dev { DEV_LEVEL } else { "info" }.into());
    let writer = dev.then(|| {
        let sink = Arc::clone(sink);
        BoxMakeWriter::new(move || dev::Own(Arc::clone(&sink)))
    });
    let color = if dev { colored(&io::stdout()) } else { colored(&io::stderr()) };
    logging::Options { format: cli.log_format, level, color, writer }
}

/// Colour is for a terminal whose user has not said no (no-color.org).
pub fn colored(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn told(answer: Result<String, admin::NoAnswer>) -> u8 {
    match answer {
        Ok(text) => output(|out| out.write_all(text.as_bytes()).map(|()| 0)),
        Err(admin::NoAnswer(why, code)) => {
            eprintln!("pillion: {}", why.trim_end());
            code
        }
    }
}

/// A reader that goes away (`| head`) is no error.
fn output(write: impl FnOnce(&mut io::Stdout) -> io::Result<u8>) -> u8 {
    let mut out = io::stdout();
    match write(&mut out).and_then(|code| out.flush().map(|()| code)) {
        Ok(code) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            eprintln!("pillion: {error}");
            1
        }
    }
}

fn bad(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("pillion: {error}");
    ExitCode::from(config::EXIT_CODE)
}

fn start(args: Run, format: logging::Format) -> u8 {
    let values = config::Values::default();
    let environment = Environment::process().with_values(values.clone());
    let metrics = Metrics::new();
    let file =
        args.config.clone().or_else(|| Some(DEFAULT_FILE.into()).filter(|file: &PathBuf| file.exists()));
    let (model, reload) = match &file {
        None => (Arc::new(defaults(&args, &environment)), None),
        Some(file) => match run::values::load(file, &environment) {
            Ok(loaded) => {
                warn(&loaded.warnings);
                (Arc::clone(&loaded.model), Some(reload(file, environment, &loaded, &metrics)))
            }
            Err(Refused::Problems(problems)) => return refused(&problems),
            Err(Refused::System(error)) => {
                eprintln!("pillion: {error}");
                return run::START_FAILED;
            }
        },
    };
    if let Some(file) = &file
        && (args.name.is_some() || args.port.is_some())
    {
        let file = file.display();
        tracing::warn!("{file} says what runs here; --name, PILLION_SERVICE and --port are not used");
    }
    let reload = match reload.transpose() {
        Ok(reload) => reload,
        Err(error) => {
            tracing::warn!("the files can't be watched, so a change of them needs a restart: {error}");
            None
        }
    };
    run::run(Plan {
        model,
        file: file.map(|file| file.display().to_string()),
        reload,
        values,
        metrics,
        command: args.command,
        banner: format == logging::Format::Human,
    })
}

fn service_name(text: &str) -> Result<String, String> {
    config::check_name(text).map(|()| text.to_owned())
}

fn defaults(args: &Run, environment: &Environment) -> config::Model {
    let folder = std::env::current_dir().ok();
    let folder = folder.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let name = args.name.clone().or_else(|| folder.map(|name| as_name(&name)));
    let model = config::defaults(name.as_deref().unwrap_or("service"), args.port, environment);
    let name = if args.name.is_some() { "--name" } else { "the folder's name" };
    let port = args.port.map(|_| ("service.port".to_owned(), Origin::option("--port")));
    let sources = [("service.name".to_owned(), Origin::option(name))].into_iter().chain(port);
    config::Model { sources: Arc::new(sources.collect()), ..model }
}

/// A folder's name may hold what a service's name may not.
fn as_name(folder: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = folder.chars().take(63).map(legal).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "service".into() } else { name.into() }
}

type Watched = (config::reload::Reload, tokio::sync::mpsc::Receiver<Arc<config::Model>>);

/// Watches the files of what was loaded, and counts what comes of it.
pub fn reload(
    file: &Path,
    environment: Environment,
    loaded: &Loaded,
    metrics: &Metrics,
) -> io::Result<Watched> {
    let count = |result| metrics.counter(&names::CONFIG_RELOADS, &[result]);
    let meters = config::reload::Meters {
        applied: count("applied"),
        unchanged: count("unchanged"),
        rejected: count("rejected"),
        refused: metrics.gauge(&names::CONFIG_REJECTED, &[]),
    };
    config::reload::Reload::start(file.to_owned(), environment, loaded, meters)
}

fn warn(warnings: &Problems) {
    for warning in warnings.iter() {
        eprint!("{warning}");
    }
}

fn refused(problems: &Problems) -> u8 {
    eprint!("{problems}");
    config::EXIT_CODE
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
        let cli =
            Cli::try_parse_from(["pillion", "run", "--port", "8080", "--", "sh", "-c", "exit 3"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("this is run") };
        assert_eq!(run.command, ["sh", "-c", "exit 3"]);
        for wrong in [["--prot", "1"], ["--port", "0"], ["--name", "my app"], ["--name", ""]] {
            assert!(Cli::try_parse_from(["pillion", "run"].into_iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_folders_name_becomes_a_services_name() {
        for (folder, name) in
            [("orders", "orders"), ("My App_2", "my-app-2"), ("--", "service"), ("", "service")]
        {
            assert_eq!(as_name(folder), name);
        }
    }
}
