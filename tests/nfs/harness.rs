//! How tests are run that share a rig: in namespaces of their own, one after another, and not at all where something is
//! missing that cannot be installed.

use std::any::Any;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use crate::{agent, rig};

/// Set where the tests run: in namespaces of their own.
const INSIDE: &str = "NFS_INSIDE";

/// The trials of the given functions, each of which is a test.
macro_rules! trials {
    ($($test:ident),* $(,)?) => {
        vec![$(crate::harness::trial(concat!(module_path!(), "::", stringify!($test)), crate::shared, $test)),*]
    };
}
pub(crate) use trials;

/// A test that gets what all of them share.
pub(crate) fn trial<T, F>(path: &str, shared: fn() -> &'static T, test: fn(&'static T) -> F) -> Trial
where
    T: 'static,
    F: Future<Output = ()> + 'static,
{
    let name = path.split_once("::").map_or(path, |(_, name)| name).to_owned();
    Trial::test(name, move || {
        let runtime = Runtime::new()?;
        let shared = shared();
        let begun = Instant::now();
        runtime.block_on(test(shared));
        print!("({:.1} s) ", begun.elapsed().as_secs_f64());
        Ok(())
    })
}

/// What all tests share. It is started when the first asks for it; if that fails, it is not tried again.
pub(crate) fn once<T>(shared: &'static OnceLock<Option<T>>, start: impl FnOnce() -> T) -> &'static T {
    let mut failure: Option<Box<dyn Any + Send>> = None;
    let started = shared.get_or_init(|| match catch_unwind(AssertUnwindSafe(start)) {
        Ok(started) => Some(started),
        Err(why) => {
            failure = Some(why);
            None
        }
    });
    if let Some(why) = failure {
        resume_unwind(why);
    }
    started.as_ref().expect("what all tests share, which did not start for the first of them")
}

/// The main function of a program of such tests. In the guest, it is the agent.
pub(crate) fn run(what: &str, missing: fn() -> Option<String>, trials: Vec<Trial>) -> ExitCode {
    if env::args().nth(1).is_some_and(|argument| argument == "agent") {
        agent::serve();
    }
    let mut arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if env::var_os(INSIDE).is_none() {
        return match missing() {
            None => {
                let begun = Instant::now();
                let code = rig::run_inside(INSIDE);
                eprintln!("{what} took {:.0} s", begun.elapsed().as_secs_f64());
                code
            }
            // There nobody would see that it was not run.
            Some(missing) if env::var_os("CI").is_some() => {
                eprintln!("{what} need {missing}");
                ExitCode::FAILURE
            }
            Some(missing) => {
                eprintln!("skipped {what}: they need {missing}");
                // Else they would run all the same.
                (arguments.ignored, arguments.include_ignored) = (false, false);
                let skipped = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
                libtest_mimic::run(&arguments, skipped).exit_code()
            }
        };
    }
    // They change the one network and the one server.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}
