//! What a thread that makes system calls asks of the kernel for itself.

/// Lets all others have the processor first, for as long as this thread lives: where files are near, their removal
/// or copying takes all that it can get, and claims wait.
pub(crate) fn give_way() {
    /// The least, as `nice` counts.
    const LEAST: i32 = 19;
    // Linux takes the process "none" for the calling thread. Anybody may lower a priority; should it fail
    // nevertheless, the work is done all the same.
    let _ = rustix::process::setpriority_process(None, LEAST);
}
