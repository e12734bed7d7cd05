//! The steps of serving a claim, of copying a volume for it, of reclaiming a volume and of growing one, and what a
//! crash right after each leaves behind.
//!
//! The code passes them in this order. With the feature `failpoints`, tests make the process die at each one
//! (`tests/crash.rs`); without it, passing one costs nothing.

/// A step that has just been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// A directory has been made, but its mode may lack what the umask took. Left: an empty directory. The next
    /// round for the claim adopts it and sets the mode; if the claim has gone meanwhile, it stays, empty, and is
    /// counted as nobody's.
    DirectoryMade,
    /// The claim's directory is complete. Left: as before.
    DirectoryReady,
    /// The place has been made in which a copy is made for the claim. Left: an empty place among the copies. The
    /// next round for the claim puts it into the trash and makes it anew; if the claim has gone meanwhile, the
    /// sweep of places that no claim waits for puts it there.
    CopyStaged,
    /// The note was written that a copy is complete, before its rename. Left: a whole copy in its place, and a
    /// note that no directory answers to. The copy is made again, or swept, as before.
    CopyMarked,
    /// A copy has been renamed to the claim's directory, and no volume points at it yet. Left: the directory, and
    /// the place with the note of the copy's number. The next round for the claim knows the copy by that number
    /// and goes on with it; if the claim has gone meanwhile, the directory stays, is counted as nobody's, and the
    /// place is swept.
    CopyPlaced,
    /// The volume has been created. Left: nothing amiss but an event that is not written; Kubernetes binds the
    /// claim.
    VolumeCreated,
    /// A volume's directory has been renamed into the trash, or archived, or kept. Left: a volume without a
    /// directory. The next round finds none, which is success, and deletes the volume.
    DirectoryDisposed,
    /// Our finalizer has been taken off the volume. Left: a volume without a directory. The next round finds none
    /// and deletes the volume.
    VolumeReleased,
    /// The volume has been deleted. Left: nothing amiss.
    VolumeDeleted,
    /// A volume that is to grow has got its new capacity. Left: a claim that does not say so. The next round for
    /// the claim sees that the volume has grown, and says it.
    VolumeGrown,
    /// Its claim says so, too. Left: nothing amiss but an event that is not written.
    ClaimGrown,
}

impl Failpoint {
    /// Lists all steps.
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

    /// Returns the name that a test calls the step by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DirectoryMade => "directory-made",
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
        }
    }

    /// Says that the step has been made. A test may have the process die of it.
    pub fn passed(self) {
        #[cfg(feature = "failpoints")]
        if fail::eval(self.name(), |_| ()).is_some() {
            std::process::abort();
        }
    }
}
