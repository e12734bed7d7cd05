//! The steps of serving a claim, of copying a volume for it, of reclaiming a volume and of growing one, and what a
//! crash right after each leaves behind.
//!
//! The code passes the steps in this order. With the feature `failpoints`, tests make the process die at each of
//! them (`tests/crash.rs`); without it, passing a step costs nothing.

/// A step that has just been completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// A directory has been made, but the umask may have taken bits from its mode. Left: an empty directory. The
    /// next round for the claim adopts the directory and sets the mode; if the claim has gone meanwhile, the
    /// directory stays, empty, and is counted as an orphan.
    DirectoryMade,
    /// The note of a volume says what is about to be brought back for its claim. Left: the note. The next round for the
    /// claim goes on; if the claim has gone meanwhile, the note is removed within two hours.
    RestoreNoted,
    /// The claim's directory is complete. Left: as before.
    DirectoryReady,
    /// The staging place for a copy has been made. Left: an empty staging place. The next round for the claim puts
    /// it into the trash and makes a new one; if the claim has gone meanwhile, the sweep of staging places that no
    /// claim waits for puts it there.
    CopyStaged,
    /// A copy has been marked as complete, and is not renamed yet. Left: a whole copy in its staging place, and a
    /// mark that fits no claim's directory. The copy is made again, or swept, as before.
    CopyMarked,
    /// A copy has been renamed to the claim's directory, and no volume points at it yet. Left: the directory, and
    /// the staging place with the mark, which has the number of the copy's inode. The next round for the claim
    /// recognises the copy by that number and goes on with it; if the claim has gone meanwhile, the directory
    /// stays and is counted as an orphan, and the staging place is swept.
    CopyPlaced,
    /// The volume has been created. Left: nothing amiss but an unwritten event; Kubernetes binds the claim.
    VolumeCreated,
    /// A volume's directory has been renamed into the trash, or archived, or kept. Left: a volume without a
    /// directory. The next round finds none, which is success, and deletes the volume.
    DirectoryDisposed,
    /// Our finalizer has been taken off the volume. Left: a volume without a directory. The next round finds none
    /// and deletes the volume.
    VolumeReleased,
    /// The volume has been deleted. Left: nothing amiss.
    VolumeDeleted,
    /// A growing volume has got its new capacity. Left: a claim whose status does not say so. The next round for
    /// the claim sees that the volume has grown, and updates the status.
    VolumeGrown,
    /// The claim's status has got the new capacity, too. Left: nothing amiss but an unwritten event.
    ClaimGrown,
    /// The volume of an archive that is restored has been made, to be kept whatever happens. Left: a volume that names
    /// the archive, which the next run of the command goes on with.
    VolumeRestored,
    /// The archive has been renamed to the volume's directory. Left: as before.
    DirectoryRestored,
    /// The claim of a restored volume has been made. Left: nothing amiss.
    ClaimRestored,
}

impl Failpoint {
    /// Lists the steps of `archives restore`.
    pub const OF_RESTORE: [Self; 3] = [Self::VolumeRestored, Self::DirectoryRestored, Self::ClaimRestored];

    /// Lists the steps of serving a claim that gets something back.
    pub const OF_CLAIM_RESTORE: [Self; 3] = [Self::RestoreNoted, Self::DirectoryReady, Self::VolumeCreated];

    /// Lists all steps of the provisioner, those of a claim that gets something back aside.
    pub const ALL: [Self; 11] = [
        Self::DirectoryMade,
        Self::DirectoryReady,
        Self::CopyStaged,
        Self::CopyMarked,
        Self::CopyPlaced,
        Self::VolumeCreated,
        Self::DirectoryDisposed,
        Self::VolumeReleased,
        Self::VolumeDeleted,
        Self::VolumeGrown,
        Self::ClaimGrown,
    ];

    /// Returns the name by which tests refer to the step.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DirectoryMade => "directory-made",
            Self::RestoreNoted => "restore-noted",
            Self::DirectoryReady => "directory-ready",
            Self::CopyStaged => "copy-staged",
            Self::CopyMarked => "copy-marked",
            Self::CopyPlaced => "copy-placed",
            Self::VolumeCreated => "volume-created",
            Self::DirectoryDisposed => "directory-disposed",
            Self::VolumeReleased => "volume-released",
            Self::VolumeDeleted => "volume-deleted",
            Self::VolumeGrown => "volume-grown",
            Self::ClaimGrown => "claim-grown",
            Self::VolumeRestored => "volume-restored",
            Self::DirectoryRestored => "directory-restored",
            Self::ClaimRestored => "claim-restored",
        }
    }

    /// Marks the step as completed. A test can make the process die here.
    pub fn passed(self) {
        #[cfg(feature = "failpoints")]
        if fail::eval(self.name(), |_| ()).is_some() {
            std::process::abort();
        }
    }
}
