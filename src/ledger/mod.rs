//! Who has what: directories and groups.

pub mod placements;
pub mod gids;
