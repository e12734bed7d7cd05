//! Reads the settings, runs the program, and says why it ended if it had to.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use nfs_provisioner::commands::doctor;
use nfs_provisioner::config::{Args, BadSettings, Command, Config};
use nfs_provisioner::run;
use tracing::error;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise. The client's errors are all reported by us, with what they
/// mean.
const LOGGED: &str = "warn,nfs_provisioner=info,kube_client=off,kube_runtime=off";

/// More than all exports together can have wait for their servers.
const BLOCKING_MAX: usize = 2048;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let on_terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr);
    if args.log_format.is_json(on_terminal) {
        log.json().flatten_event(true).init();
    } else {
        log.with_ansi(on_terminal).init();
    }

    // Which steps the program is to die at; see [`nfs_provisioner::failpoint`].
    #[cfg(feature = "failpoints")]
    let _failpoints = fail::FailScenario::setup();

    match start(args) {
        Ok(code) => code,
        Err(error) => {
            let Some(BadSettings(wrong)) = error.downcast_ref() else {
                error!("{error:#}");
                return ExitCode::FAILURE;
            };
            for line in wrong {
                error!("{line}");
            }
            error!("cannot start with these settings; --help explains each");
            ExitCode::from(2)
        }
    }
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_MAX)
        .enable_all()
        .build()?;
    let result = match args.command {
        Some(Command::RemoveFinalizers) => {
            let (provisioner, kubeconfig) = args.name_and_kubeconfig()?;
            runtime
                .block_on(run::remove_finalizers(&provisioner, kubeconfig.as_deref()))
                .map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Doctor { output }) => {
            let config = Config::try_from(args)?;
            let report = runtime.block_on(doctor::examine(&config));
            std::io::stdout().write_all(report.print(output).as_bytes())?;
            Ok(if report.has_failure() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        None => {
            let config = Config::try_from(args)?;
            runtime.block_on(run::run(config)).map(|()| ExitCode::SUCCESS)
        }
    };
    // A call on a server that does not answer must not keep the program from ending.
    runtime.shutdown_background();
    result
}
