//! What is typed for the subcommands.

#![expect(missing_docs, reason = "clap shows docs to users: groups of arguments have nothing to tell them")]

use clap::{Args, Subcommand, ValueEnum};

use crate::values::address::ExportAddress;

/// Subcommands: what the program does instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Take this provisioner's finalizer off its volumes, before an uninstall or a rollback. Stop it first: it
    /// puts them back.
    RemoveFinalizers,

    /// Have volumes point at another server or path, when the NFS server has moved or got another name. It copies no
    /// files.
    ///
    /// A PersistentVolume cannot be edited, so each is made anew under its name; its claim stays, and is bound to
    /// it again. Without --yes it only prints what it would do, and what stands in the way. It may be run again
    /// after it was interrupted, and finishes first what was begun.
    Rehome(Rehome),

    /// Check settings, API server, rights, classes and the export, and say what is wrong and how to mend it. It
    /// ends with 1 if anything is that keeps the provisioner from its work. A provisioner may run meanwhile.
    Doctor {
        /// How to say it: text for people, json for machines.
        #[arg(
            long,
            short,
            value_enum,
            default_value = "text",
            hide_possible_values = true,
            value_name = "text|json"
        )]
        output: Output,
    },

    /// List this provisioner's volumes: whose each is, where it lies, and what becomes of it when its claim goes.
    #[command(args_conflicts_with_subcommands = true)]
    Volumes {
        #[command(flatten)]
        list: ListArgs,
        #[command(subcommand)]
        action: Option<ListOnly>,
    },

    /// List archives, make one a volume with a claim again, or remove some.
    #[command(args_conflicts_with_subcommands = true)]
    Archives {
        #[command(flatten)]
        list: ListArgs,
        #[command(subcommand)]
        action: Option<KeptAction>,
    },

    /// List what lies in the trash, make what is kept there a volume with a claim again, or have it removed now.
    #[command(args_conflicts_with_subcommands = true)]
    Trash {
        #[command(flatten)]
        list: ListArgs,
        #[command(subcommand)]
        action: Option<KeptAction>,
    },

    /// List the directories that belong to no volume of this cluster, or remove some.
    #[command(args_conflicts_with_subcommands = true)]
    Orphans {
        #[command(flatten)]
        list: ListArgs,
        #[command(subcommand)]
        action: Option<OrphansAction>,
    },

    /// Make volumes and claims for directories that are on the export, as after a cluster was rebuilt. Without --apply
    /// they are printed. Nothing on the export is touched.
    Adopt(AdoptArgs),
}

impl Command {
    /// Tells whether the command says on its own, to a person, what there is to say. The log then has errors alone.
    #[must_use]
    pub fn speaks_for_itself(&self) -> bool {
        !matches!(self, Self::RemoveFinalizers | Self::Rehome(_) | Self::Doctor { .. })
    }
}

/// What all lists take.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub filter: FilterArgs,

    /// How to show it.
    #[arg(
        long,
        short,
        value_enum,
        default_value = "table",
        value_name = "table|wide|json|yaml|name",
        hide_possible_values = true
    )]
    pub output: Format,

    /// Count how much each holds, which takes a call to the server for each file.
    #[arg(long)]
    pub sizes: bool,
}

/// By what items are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct FilterArgs {
    /// Only those of claims in this namespace.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Only those of this StorageClass.
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,

    /// Only those on the export of this name.
    #[arg(long, value_name = "EXPORT")]
    pub export: Option<String>,

    /// Only those that are older than this, such as 12h or 30d.
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<String>,
}

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people.
    Table,
    /// A table with all that is known.
    Wide,
    /// One object of JSON, with a list `items`.
    Json,
    /// One document of YAML, with a list `items`.
    Yaml,
    /// Names alone, one a line.
    Name,
}

/// What can be done with what is only listed.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ListOnly {
    /// List them, which is what is done if nothing is said.
    List(ListArgs),
}

/// What can be done with archives, and with what is kept in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum KeptAction {
    /// List them, which is what is done if nothing is said.
    List(ListArgs),
    /// Make one a volume with a claim again, as its note says. Run it again if it was cut.
    Restore(RestoreArgs),
    /// Remove some: by name, or all of this cluster that are older than an age.
    Remove(RemoveArgs),
}

/// What can be done with orphans.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum OrphansAction {
    /// List them, which is what is done if nothing is said.
    List(ListArgs),
    /// Remove orphans: those of which a note of this cluster tells that their volume is gone.
    Remove {
        #[command(flatten)]
        remove: RemoveArgs,

        /// Remove those, too, of which no note of this cluster tells anything. They may be another cluster's.
        #[arg(long)]
        foreign: bool,
    },
}

/// What a volume and a claim are to be like that are made for a directory, if not as noted.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct WishArgs {
    /// The claim that gets it.
    #[arg(long = "as", value_name = "NAMESPACE/CLAIM")]
    pub claim: Option<String>,

    /// The StorageClass that volume and claim name.
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,

    /// The size, such as 10Gi.
    #[arg(long, value_name = "QUANTITY")]
    pub size: Option<String>,

    /// The name of the export, where several have one of that name.
    #[arg(long, value_name = "EXPORT")]
    pub export: Option<String>,
}

/// What is restored.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RestoreArgs {
    /// The name, as the list shows it.
    pub name: String,

    #[command(flatten)]
    pub wish: WishArgs,

    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// What is removed.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RemoveArgs {
    /// The names.
    pub names: Vec<String>,

    #[command(flatten)]
    pub filter: FilterArgs,

    /// Do it, and not only say what would go.
    #[arg(long)]
    pub yes: bool,
}

/// What is adopted.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AdoptArgs {
    /// The path of a directory beneath the export.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub directory: Option<String>,

    #[command(flatten)]
    pub wish: WishArgs,

    /// Adopt all directories that another cluster, which is gone, has noted as those of its volumes.
    #[arg(long, conflicts_with_all = ["claim", "class", "size"])]
    pub all: bool,

    /// The cluster that is gone, by the uid of its namespace kube-system, where several have notes or it is not silent yet.
    #[arg(long, value_name = "UID")]
    pub cluster: Option<String>,

    /// Make the volumes and claims, and not only print them.
    #[arg(long)]
    pub apply: bool,
}

/// What [`Command::Rehome`] is to do.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Rehome {
    /// Where the volumes are now: those of this provisioner at this path or beneath it are moved.
    #[arg(long, value_name = "SERVER:PATH", value_parser = ExportAddress::parse)]
    pub from: ExportAddress,

    /// Where they are to be: the same directories beneath this path.
    #[arg(long, value_name = "SERVER:PATH", value_parser = ExportAddress::parse)]
    pub to: ExportAddress,

    /// Only volumes of this StorageClass.
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,

    /// Also volumes whose claims Pods use. These Pods keep the old server mounted until they are started anew.
    #[arg(long)]
    pub in_use: bool,

    /// Do it.
    #[arg(long)]
    pub yes: bool,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line for each check.
    Text,
    /// One object of JSON.
    Json,
}
