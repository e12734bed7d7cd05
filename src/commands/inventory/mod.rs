//! `nfs-provisioner volumes`, `archives`, `trash` and `orphans`: what there is, and whose it is or was.
//!
//! Each takes one step after the other: **gather** the items, a page at a time (`gather.rs`), **choose** those that were
//! asked for (`item.rs`), **count** what they hold if that was asked for (`sizes.rs`), **show** them (`show.rs`). Nothing
//! is changed, no lock is taken, and memory does not grow with the number of archives.

use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};
use jiff::Timestamp;

use crate::commands::session::Session;
use crate::config::Format;

mod item;
mod sizes;
mod show;
mod gather;

pub use gather::{GONE, Notes, Source, by_name};
pub use item::{Item, Kind, Query, age};
pub use show::Printer;

/// Lists what is asked for on standard output.
///
/// # Errors
/// If the API server does not answer, or standard output cannot be written. An export that cannot be listed keeps no
/// other from being listed; the error names it when all is done.
pub async fn list(session: &Session, kind: Kind, query: &Query, format: Format, sizes: bool) -> Result<()> {
    let (now, shows_progress) = (Timestamp::now(), sizes && std::io::stderr().is_terminal());
    let mut printer = Printer::new(kind, format, std::io::stdout().lock());
    let mut source = gather::Source::open(session, kind).await?;
    let mut failed = Vec::new();
    for (id, export) in session.chosen(query.export.as_deref())? {
        let listed = async {
            source.begin(session, id).await?;
            while let Some(page) = source.next(session).await? {
                for mut item in page.into_iter().filter(|item| query.asks_for(item, now)) {
                    let on = session.exports.values().find(|export| *export.name == *item.export);
                    if let (true, Some(path), Some(on)) = (sizes, &item.lies_at, on) {
                        item.used = sizes::used(&on.storage, path, shows_progress).await;
                    }
                    printer.add(item)?;
                }
                printer.flush()?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = listed.await {
            failed.push(format!("the export {}: {error:#}", export.name));
        }
    }
    printer.end()?.flush()?;
    if !failed.is_empty() {
        bail!("not all could be listed: {}", failed.join("; "));
    }
    Ok(())
}
