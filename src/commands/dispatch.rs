//! From what was typed to what is done, for the commands that show what there is and bring it back.

use anyhow::{Result, anyhow};

use crate::commands::adopt::{self, adopt};
use crate::commands::inventory::{Kind, Query, age, list};
use crate::commands::remove::{self, remove};
use crate::commands::restore::{self, restore};
use crate::commands::revive::{Wish, claim_name};
use crate::commands::session::Session;
use crate::config::{
    AdoptArgs, Command, Config, FilterArgs, KeptAction, ListArgs, ListOnly, OrphansAction, RemoveArgs,
    RestoreArgs, WishArgs,
};

/// What is to be done with what there is.
#[derive(Debug)]
enum Task {
    List(Kind, ListArgs),
    Remove(Kind, RemoveArgs, bool),
    Restore(Kind, RestoreArgs),
    Adopt(AdoptArgs),
}

/// Runs one of the commands that work on volumes and exports; any other does nothing.
///
/// # Errors
/// Says what stands in the way, and what to do.
pub async fn run(command: Command, config: &Config) -> Result<()> {
    let Some(task) = task(command) else { return Ok(()) };
    match task {
        Task::List(kind, ListArgs { filter, output, sizes }) => {
            let query = query(filter, Vec::new())?;
            list(&Session::open(config).await?, kind, &query, output, sizes).await
        }
        Task::Remove(kind, RemoveArgs { names, filter, yes }, foreign) => {
            let order = remove::Order { kind, query: query(filter, names)?, foreign, yes };
            remove(&Session::open(config).await?, &order).await
        }
        Task::Restore(kind, RestoreArgs { name, wish, dry_run }) => {
            let order =
                restore::Order { kind, name, export: wish.export.clone(), wish: self::wish(wish)?, dry_run };
            restore(&Session::open(config).await?, &order).await
        }
        Task::Adopt(AdoptArgs { directory, wish, all: _, cluster, apply }) => {
            let export = wish.export.clone();
            let order = adopt::Order { directory, export, wish: self::wish(wish)?, cluster, apply };
            adopt(&Session::open(config).await?, &order).await
        }
    }
}

fn task(command: Command) -> Option<Task> {
    Some(match command {
        Command::RemoveFinalizers | Command::Rehome(_) | Command::Doctor { .. } => return None,
        Command::Volumes { list, action } => Task::List(Kind::Volumes, only(list, action)),
        Command::Archives { list, action } => kept(Kind::Archives, list, action),
        Command::Trash { list, action } => kept(Kind::Trash, list, action),
        Command::Orphans { list, action: None } => Task::List(Kind::Orphans, list),
        Command::Orphans { action: Some(action), .. } => match action {
            OrphansAction::List(list) => Task::List(Kind::Orphans, list),
            OrphansAction::Remove { remove, foreign } => Task::Remove(Kind::Orphans, remove, foreign),
        },
        Command::Adopt(adopt) => Task::Adopt(adopt),
    })
}

fn kept(kind: Kind, list: ListArgs, action: Option<KeptAction>) -> Task {
    match action {
        None => Task::List(kind, list),
        Some(KeptAction::List(list)) => Task::List(kind, list),
        Some(KeptAction::Restore(restore)) => Task::Restore(kind, restore),
        Some(KeptAction::Remove(remove)) => Task::Remove(kind, remove, false),
    }
}

fn only(list: ListArgs, action: Option<ListOnly>) -> ListArgs {
    match action {
        Some(ListOnly::List(list)) => list,
        None => list,
    }
}

fn query(filter: FilterArgs, names: Vec<String>) -> Result<Query> {
    let FilterArgs { namespace, class, export, older_than } = filter;
    let older_than =
        older_than.map(|text| age(&text).map_err(|words| anyhow!("--older-than {words}"))).transpose()?;
    Ok(Query { namespace, class, export, older_than, names })
}

fn wish(wish: WishArgs) -> Result<Wish> {
    let claim = wish.claim.map(|text| claim_name(&text).map_err(|words| anyhow!("--as {words}"))).transpose()?;
    Ok(Wish { claim, class: wish.class, size: wish.size })
}
