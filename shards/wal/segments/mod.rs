//! The files of the log: their sizes, made ahead, taken into use, freed, used again. A write meets a segment that is there already.

pub(super) mod chores;
pub(super) mod config;
pub(super) mod header;
pub(super) mod segment;
