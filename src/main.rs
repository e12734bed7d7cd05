//! Reads the settings, runs the program, and says why it ended if it had to.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use nfs_provisioner::commands::{doctor, remove_finalizers};
use nfs_provisioner::config::{Args, BadSettings, Command, Config};
use nfs_provisioner::observe::log;
use nfs_provisioner::run;
use tracing::error;

/// More threads than all exports together can have waiting for their servers.
const BLOCKING_MAX: usize = 2048;

fn main() -> ExitCode {
    let args = Args::parse();
    let on_terminal = std::io::stderr().is_terminal();
    log::start(args.log_format.is_json(on_terminal), on_terminal);

    // Reads the steps that the program is to die at; see [`nfs_provisioner::failpoint`].
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
            let removing = remove_finalizers::remove_finalizers(&provisioner, kubeconfig.as_deref());
            runtime.block_on(removing).map(|()| ExitCode::SUCCESS)
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
