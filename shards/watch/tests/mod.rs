//! Watches against a plain reference: everything that happened, in one list.

mod engine;
mod model;
mod pieces;
