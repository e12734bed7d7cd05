//! A server: one session with it for all of its exports, made when it is needed and made anew when it is lost.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::storage::direct::backoff::Backoff;
use crate::storage::direct::compound::{Compound, Limits};
use crate::storage::direct::rpc::Who;
use crate::storage::direct::session::{Answer, Endpoint, NoAnswer, Session};
use crate::storage::error::{Errno, Problem};

/// How long a call is tried, with all that it takes to reach the server.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Which minor versions of NFS 4 may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Minor {
    /// 2 if the server has it, else 1.
    Newest,
    /// Only 1.
    One,
    /// Only 2.
    Two,
}

impl Minor {
    fn candidates(self) -> &'static [u32] {
        match self {
            Self::Newest => &[2, 1],
            Self::One => &[1],
            Self::Two => &[2],
        }
    }
}

/// A server, as it is spoken to.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: Endpoint,
    minor: Minor,
    /// By what the server knows this client from others.
    owner: Box<[u8]>,
    session: Mutex<Option<Arc<Session>>>,
}

/// The servers of a process, each of them once.
#[derive(Debug, Clone, Default)]
pub struct Servers(Arc<Known>);

#[derive(Debug)]
struct Known {
    /// What no other process has: by that a server knows this one, also when it comes back to it.
    process: u128,
    servers: Mutex<HashMap<(Endpoint, Minor), Weak<Server>>>,
}

impl Default for Known {
    fn default() -> Self {
        Self { process: fastrand::u128(..), servers: Mutex::default() }
    }
}

/// All are the same: which servers there are does not tell two exports apart.
impl PartialEq for Servers {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Servers {}

impl Servers {
    /// Returns the server there.
    pub(crate) fn get(&self, host: &str, port: u16, minor: Minor) -> Arc<Server> {
        let endpoint = Endpoint { host: host.into(), port };
        let mut servers = self.0.servers.lock();
        servers.retain(|_, server| server.strong_count() > 0);
        let known = servers.entry((endpoint.clone(), minor)).or_default();
        known.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::new(endpoint.clone(), minor, self.0.process));
            *known = Arc::downgrade(&server);
            server
        })
    }
}

impl Server {
    fn new(endpoint: Endpoint, minor: Minor, process: u128) -> Self {
        // What has a session of its own is a client of its own.
        let Endpoint { host, port } = &endpoint;
        let owner = format!("nfs-provisioner {process:032x} {host} {port} {minor:?}").into_bytes().into();
        Self { endpoint, minor, owner, session: Mutex::new(None) }
    }

    /// Has a compound carried out, and tries for [`PATIENCE`] to get an answer. If the first operation that changes
    /// something, or one before it, finds that the server is not ready for it, it is sent again.
    ///
    /// # Errors
    /// If there is no answer. A change that was sent is waited for until there is one, or until the server says that it
    /// knows nothing of it any more.
    pub(crate) fn call(&self, who: Who, compound: &Compound) -> Result<Answer, Problem> {
        self.call_within(PATIENCE, who, compound)
    }

    /// Does as [`Server::call`], and tries for so long.
    pub(crate) fn call_within(
        &self,
        patience: Duration,
        who: Who,
        compound: &Compound,
    ) -> Result<Answer, Problem> {
        let deadline = Instant::now() + patience;
        let mut backoff = Backoff::until(deadline);
        let mut may_be_repeated = false;
        loop {
            let session = self.session(deadline)?;
            match session.call(who, compound, deadline) {
                Ok(answer) if answer.status.is_not_yet() && compound.has_changed_nothing(answer.count()) => {
                    if !backoff.pause() {
                        return Err(answer.status.into());
                    }
                }
                Ok(mut answer) => {
                    answer.may_be_repeated = may_be_repeated;
                    return Ok(answer);
                }
                Err(NoAnswer::Lost { sent }) => {
                    may_be_repeated |= sent && compound.changes();
                    self.forget(&session);
                    if !backoff.pause() {
                        return Err(Problem::Os(Errno::ETIMEDOUT));
                    }
                }
                Err(NoAnswer::Silent { sent: false, problem }) => return Err(problem),
                // Its slot is not used again, and there may be many of these.
                Err(NoAnswer::Silent { problem, .. } | NoAnswer::Refused(problem)) => {
                    self.forget(&session);
                    return Err(problem);
                }
            }
        }
    }

    /// Returns the session, a new one if there is none.
    pub(crate) fn session(&self, deadline: Instant) -> Result<Arc<Session>, Problem> {
        let Some(mut current) = self.session.try_lock_until(deadline) else {
            return Err(Problem::Os(Errno::ETIMEDOUT));
        };
        if let Some(session) = &*current {
            return Ok(Arc::clone(session));
        }
        let mut refused = Problem::Os(Errno::EPROTONOSUPPORT);
        for minor in self.minor.candidates() {
            match Session::establish(&self.endpoint, *minor, &self.owner, deadline) {
                Ok(session) => {
                    let session = Arc::new(session);
                    *current = Some(Arc::clone(&session));
                    return Ok(session);
                }
                Err(problem) if problem == refused => refused = problem,
                Err(problem) => return Err(problem),
            }
        }
        Err(refused)
    }

    /// Returns what the server grants at a time.
    pub(crate) fn limits(&self) -> Result<Limits, Problem> {
        self.session(Instant::now() + PATIENCE).map(|session| session.limits)
    }

    /// Lets go of a session that is over, unless another has taken its place already.
    fn forget(&self, session: &Arc<Session>) {
        let mut current = self.session.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *current = None;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(session) = self.session.get_mut() {
            session.end();
        }
    }
}
