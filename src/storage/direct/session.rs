//! Sessions (RFC 8881, section 2.10): how a change is carried out once, though its answer was lost.
//!
//! A request has a slot and a number in it. If the connection breaks before the answer has come, the very same
//! request is sent again on another: the server answers what it has answered before, or carries it out now. When
//! the session is lost, too, as when the server was restarted, nobody can say what became of the request, and the
//! answer to the next one says so ([`Answer::may_be_repeated`]).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::storage::direct::backoff::Backoff;
use crate::storage::direct::compound::{Compound, Limits, Results, Sequence, SessionId};
use crate::storage::direct::connection::{Broken, Connection, RECORD_MAX};
use crate::storage::direct::rpc::{self, Who};
use crate::storage::direct::status::Status;
use crate::storage::direct::xdr::Decoder;
use crate::storage::error::{Errno, Problem};

/// How many requests are under way at a time, at the most.
const SLOTS_MAX: u32 = 32;

/// How many operations are sent at once, at the most.
const OPERATIONS_MAX: u32 = 64;

/// How much data is sent or asked for at once, at the most.
const DATA_MAX: u32 = 256 << 10;

/// How much of a record may be something else than data.
const OVERHEAD: u32 = 2 << 10;

/// What a session is asked for.
const WANTED: Limits = Limits {
    request: DATA_MAX + OVERHEAD,
    reply: DATA_MAX + OVERHEAD,
    kept_reply: 4096,
    operations: OPERATIONS_MAX,
    slots: SLOTS_MAX,
};

/// How long the answer to one request is waited for on one connection. That the other end has gone, the connection tells
/// sooner.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A request is not sent any more if there is less time left for its answer.
const ANSWER_MIN: Duration = Duration::from_secs(1);

/// Where a server is, and which of its ports it listens at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
}

/// An answer to a compound.
#[derive(Debug)]
pub(crate) struct Answer {
    record: Vec<u8>,
    /// How much of the record comes before the results of the operations.
    skipped: usize,
    results: u32,
    /// How the last operation that was carried out has ended.
    pub(crate) status: Status,
    /// Whether the same changes may have been made before, by a request whose answer was lost with its session.
    pub(crate) may_be_repeated: bool,
}

impl Answer {
    /// Reads the results of the operations.
    ///
    /// # Errors
    /// What `reads` finds, or, where nothing was carried out at all, such as in a version that there is not, why.
    pub(crate) fn read<'a, T>(
        &'a self,
        reads: impl FnOnce(&mut Results<'a>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        if self.results == 0 && self.status != Status::OK {
            return Err(self.status);
        }
        reads(&mut self.results())
    }

    fn results(&self) -> Results<'_> {
        Results::of(Decoder::new(self.record.get(self.skipped..).unwrap_or_default()), self.results)
    }

    /// Returns how many operations were answered.
    pub(crate) fn count(&self) -> u32 {
        self.results
    }
}

/// Why a session has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The session is over. `sent` tells whether the request may have been carried out.
    Lost { sent: bool },
    /// The server has not answered in time. `sent` tells whether it may still carry out the request.
    Silent { sent: bool, problem: Problem },
    /// The request was not carried out, and would not be if it was sent again.
    Refused(Problem),
}

/// A session with a server.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    minor: u32,
    pub(crate) limits: Limits,
    endpoint: Endpoint,
    connection: Mutex<Option<Arc<Connection>>>,
    /// The slots that are free, with the number of the next request in each.
    free: Mutex<Vec<(u32, u32)>>,
    freed: Condvar,
}

/// A slot that is in use. It is free again when the value is dropped, unless a request in it was not answered: the
/// next one there would be taken for that.
struct Slot<'a> {
    session: &'a Session,
    index: u32,
    number: u32,
    /// Whether the server may know a request of this number.
    is_open: bool,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            self.session.free.lock().push((self.index, self.number));
            self.session.freed.notify_one();
        }
    }
}

impl Session {
    /// Makes a session as the client of this `owner`. All that another run of the same client has begun is over
    /// then: the server carries out nothing of it any more.
    ///
    /// # Errors
    /// If the server cannot be reached or does not answer by the deadline, or refuses.
    pub(crate) fn establish(
        endpoint: &Endpoint,
        minor: u32,
        owner: &[u8],
        deadline: Instant,
    ) -> Result<Self, Problem> {
        let mut backoff = Backoff::until(deadline);
        loop {
            let tried = connect(endpoint, deadline)
                .and_then(|connection| Self::negotiate(endpoint, minor, owner, Arc::new(connection), deadline));
            match tried {
                Err(problem) if is_worth_another(problem) && backoff.pause() => {}
                tried => return tried,
            }
        }
    }

    fn negotiate(
        endpoint: &Endpoint,
        minor: u32,
        owner: &[u8],
        connection: Arc<Connection>,
        deadline: Instant,
    ) -> Result<Self, Problem> {
        let bare = |compound: &Compound| {
            let (before, operations) = compound.arguments(minor, None);
            let call = |xid| rpc::call(xid, Who::ROOT, &[&before, operations]);
            let record = connection.call(call, attempt(deadline)).map_err(unanswered)?;
            answer(record)
        };
        let exchanged = bare(&Compound::new().exchange_id(owner, fastrand::u64(..).to_be_bytes()))?;
        let (client, sequence) = exchanged.read(Results::exchange_id)?;
        let created = bare(&Compound::new().create_session(client, sequence, WANTED))?;
        let (id, granted) = created.read(Results::create_session).map_err(|status| match status {
            // Another negotiation has come between.
            Status::STALE_CLIENTID => Problem::Os(Errno::EAGAIN),
            status => status.into(),
        })?;
        let limits = Limits {
            request: granted.request.min(WANTED.request),
            reply: granted.reply.min(WANTED.reply),
            kept_reply: granted.kept_reply.min(WANTED.kept_reply),
            operations: granted.operations.min(OPERATIONS_MAX),
            slots: granted.slots.clamp(1, SLOTS_MAX),
        };
        let free = (0..limits.slots).rev().map(|slot| (slot, 1)).collect();
        let session = Self {
            id,
            minor,
            limits,
            endpoint: endpoint.clone(),
            connection: Mutex::new(Some(connection)),
            free: Mutex::new(free),
            freed: Condvar::new(),
        };
        // Nothing was held before: else nothing could be opened as long as the server waits for that.
        match session.call(Who::ROOT, &Compound::new().reclaim_complete(), deadline) {
            Ok(answer) => match answer.read(Results::reclaim_complete) {
                Ok(()) | Err(Status::COMPLETE_ALREADY) => Ok(session),
                Err(status) => Err(status.into()),
            },
            Err(NoAnswer::Refused(problem) | NoAnswer::Silent { problem, .. }) => Err(problem),
            Err(NoAnswer::Lost { .. }) => Err(Problem::Os(Errno::ECONNRESET)),
        }
    }

    /// Has a compound carried out, once. One that changes something is not given up once it was sent, however long that
    /// takes: the server could still carry it out.
    ///
    /// # Errors
    /// If it was not, or that is not known.
    pub(crate) fn call(&self, who: Who, compound: &Compound, mut deadline: Instant) -> Result<Answer, NoAnswer> {
        let silent = |sent, problem| NoAnswer::Silent { sent, problem };
        let timed_out = Problem::Os(Errno::ETIMEDOUT);
        let mut slot = self.slot(deadline).ok_or_else(|| silent(false, timed_out))?;
        let mut backoff = Backoff::until(deadline);
        let mut sent = false;
        loop {
            if sent && compound.changes() {
                deadline = Instant::now() + ANSWER_MAX;
                backoff.extend(deadline);
            } else if Instant::now() + ANSWER_MIN > deadline {
                return Err(silent(sent, timed_out));
            }
            let connection = match self.connection(deadline) {
                Ok(connection) => connection,
                Err(_) if backoff.pause() || (sent && compound.changes()) => continue,
                Err(problem) => return Err(silent(sent, problem)),
            };
            let sequence = Sequence {
                session: self.id,
                slot: slot.index,
                number: slot.number,
                highest_slot: self.limits.slots - 1,
            };
            let (before, operations) = compound.arguments(self.minor, Some(&sequence));
            let call = |xid| rpc::call(xid, who, &[&before, operations]);
            let record = match connection.call(call, attempt(deadline)) {
                Ok(record) => record,
                Err(broken) => {
                    slot.is_open = true;
                    // A connection that is silent is as good as none, and the same request must not be sent twice
                    // on one (RFC 8881, section 2.10.6.2).
                    connection.close();
                    // The first time at once: it may be nothing but an old connection.
                    if !std::mem::replace(&mut sent, true) || backoff.pause() || compound.changes() {
                        continue;
                    }
                    return Err(silent(true, unanswered(broken)));
                }
            };
            slot.is_open = true;
            let answered = sequenced(record).map_err(NoAnswer::Refused)?;
            slot.is_open = sent && answered.0 == Status::DELAY;
            match answered {
                (Status::OK, answer) => {
                    slot.number = slot.number.wrapping_add(1);
                    return Ok(answer);
                }
                // It was carried out, and what came of it is not known any more.
                (Status::RETRY_UNCACHED_REP, _) if compound.changes() => {
                    return Err(NoAnswer::Lost { sent: true });
                }
                (Status::RETRY_UNCACHED_REP, _) => slot.number = slot.number.wrapping_add(1),
                // Nothing else was looked at, and this slot stands where it stood.
                (Status::DELAY, _) if backoff.pause() => {}
                (Status::DELAY, _) => return Err(silent(sent, timed_out)),
                (status, _) if status.is_loss_of_session() => return Err(NoAnswer::Lost { sent }),
                (status, _) => return Err(NoAnswer::Refused(status.into())),
            }
        }
    }

    /// Takes a slot, as soon as one is free; `None` if none is until the deadline.
    fn slot(&self, deadline: Instant) -> Option<Slot<'_>> {
        let mut free = self.free.lock();
        loop {
            if let Some((index, number)) = free.pop() {
                return Some(Slot { session: self, index, number, is_open: false });
            }
            if self.freed.wait_until(&mut free, deadline).timed_out() {
                return None;
            }
        }
    }

    /// Returns the connection, a new one if that before has ended.
    fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, Problem> {
        let Some(mut current) = self.connection.try_lock_until(deadline) else {
            return Err(Problem::Os(Errno::ETIMEDOUT));
        };
        if let Some(open) = current.as_ref().filter(|open| !open.is_over()) {
            return Ok(Arc::clone(open));
        }
        *current = None;
        let connected = Arc::new(connect(&self.endpoint, deadline)?);
        *current = Some(Arc::clone(&connected));
        Ok(connected)
    }

    /// Ends the session at the server, if that is to be reached at once, and the connection.
    pub(crate) fn end(&self) {
        let connection = self.connection.try_lock().and_then(|mut current| current.take());
        if let Some(connection) = connection {
            let compound = Compound::new().destroy_session(&self.id);
            let (before, operations) = compound.arguments(self.minor, None);
            let soon = Instant::now() + Duration::from_millis(100);
            let _ = connection.call(|xid| rpc::call(xid, Who::ROOT, &[&before, operations]), soon);
            connection.close();
        }
    }
}

fn connect(endpoint: &Endpoint, deadline: Instant) -> Result<Connection, Problem> {
    Connection::open(&endpoint.host, endpoint.port, deadline).map_err(|error| {
        if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
            Problem::Os(Errno::ETIMEDOUT)
        } else if error.raw_os_error().is_none() {
            // Its name leads to no address.
            Problem::Os(Errno::EHOSTUNREACH)
        } else {
            error.into()
        }
    })
}

/// Returns until when the answer to one request is waited for.
fn attempt(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + ANSWER_MAX)
}

fn unanswered(broken: Broken) -> Problem {
    Problem::Os(match broken {
        Broken::Closed => Errno::ECONNRESET,
        Broken::Silent => Errno::ETIMEDOUT,
    })
}

/// Tells whether a session may come to be in a moment that did not now.
fn is_worth_another(problem: Problem) -> bool {
    use Errno::{EAGAIN, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, EPIPE, ESTALE, ETIMEDOUT};
    matches!(
        problem,
        Problem::InGrace
            | Problem::Os(
                EAGAIN | ECONNREFUSED | ECONNRESET | EHOSTUNREACH | ENETUNREACH | EPIPE | ESTALE | ETIMEDOUT
            )
    )
}

/// Opens the envelope of an answer.
fn answer(record: Vec<u8>) -> Result<Answer, Problem> {
    let (status, results) = Results::new(rpc::results(&record)?)?;
    let (skipped, count) = (record.len() - results.left(), results.count());
    Ok(Answer { record, skipped, results: count, status, may_be_repeated: false })
}

/// Opens the envelope of an answer, and reads what became of the request's place in the session.
fn sequenced(record: Vec<u8>) -> Result<(Status, Answer), Problem> {
    let whole = answer(record)?;
    let mut results = whole.results();
    if results.count() == 0 {
        return Ok((whole.status, whole));
    }
    let status = match results.sequence() {
        // Servers say it of the operation after this one, too (RFC 8881, section 2.10.6.1.3).
        Ok(()) if whole.status == Status::RETRY_UNCACHED_REP => whole.status,
        Ok(()) => Status::OK,
        Err(status) => status,
    };
    let (skipped, count) = (whole.record.len() - results.left(), results.count());
    Ok((status, Answer { skipped, results: count, ..whole }))
}

const _: () = assert!(RECORD_MAX > (DATA_MAX + OVERHEAD) as usize);
