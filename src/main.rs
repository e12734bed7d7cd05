//! Reads the settings, runs the program, and says why it ended if it had to.

use std::io::{Error, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use nfs_provisioner::commands::{dispatch, doctor, rehome, remove_finalizers};
use nfs_provisioner::config::{Args, BadSettings, Command, Config, without_glog};
use nfs_provisioner::observe::log;
use nfs_provisioner::run;
use nfs_provisioner::values::text::printable;
use tracing::{error, info};

/// More threads than all exports together can have waiting for their servers.
const BLOCKING_MAX: usize = 2048;

fn main() -> ExitCode {
    let (given, ignored) = without_glog(std::env::args_os());
    let args = Args::parse_from(given);
    let on_terminal = std::io::stderr().is_terminal();
    let is_quiet = args.command.as_ref().is_some_and(Command::speaks_for_itself);
    log::start(args.log_format.is_json(on_terminal), on_terminal, is_quiet);

    if !ignored.is_empty() {
        info!("ignored {}: RUST_LOG chooses what is logged", ignored.join(", "));
    }
    if let Err(error) = thread::Builder::new().spawn(|| {}) {
        error!("{}", no_thread(&error));
        return ExitCode::FAILURE;
    }

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

/// Says what keeps this process from having threads.
fn no_thread(error: &Error) -> String {
    let what_to_do = if error.kind() == ErrorKind::PermissionDenied {
        // glibc has another way only where the kernel says that it does not know this one.
        "the container runtime's seccomp profile refuses the system call clone3, as that of Docker before 20.10.10 does. \
         Update the runtime, or set securityContext.seccompProfile.type to Unconfined"
    } else {
        "check how many processes and threads the Pod, its node or ulimit -u allows"
    };
    format!("cannot start a thread: {error}; {what_to_do}")
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_MAX)
        .enable_all()
        .build()?;
    let result = match args.command.clone() {
        Some(Command::RemoveFinalizers) => {
            let (provisioner, kubeconfig) = args.name_and_kubeconfig()?;
            let removing = remove_finalizers::remove_finalizers(&provisioner, kubeconfig.as_deref());
            runtime.block_on(removing).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Rehome(request)) => {
            let ((provisioner, kubeconfig), exports) = (args.name_and_kubeconfig()?, args.exports()?);
            let wish = rehome::Wish { request, provisioner, exports };
            let mut out = std::io::stdout();
            let all = runtime.block_on(rehome::rehome(&wish, kubeconfig.as_deref(), &mut out));
            all.map(|all| if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(Command::Doctor { output }) => {
            let config = Config::try_from(args)?;
            let report = runtime.block_on(doctor::examine(&config));
            std::io::stdout().write_all(report.print(output).as_bytes())?;
            Ok(if report.has_failure() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Some(command) => {
            let config = Config::try_from(args)?;
            Ok(match runtime.block_on(dispatch::run(command, &config)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    // To the person who has typed it, not to a log.
                    writeln!(std::io::stderr(), "error: {}", printable(&format!("{error:#}")))?;
                    ExitCode::FAILURE
                }
            })
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
