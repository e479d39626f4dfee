//! From a message under construction to its frame, with one copy and no allocation of its own.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use crate::frame::append_frame;

/// Builds messages and writes them as frames: one flatbuffer builder, used again and again.
pub(crate) struct FrameBuilder {
    builder: FlatBufferBuilder<'static>,
}

/// A builder that has grown beyond this by one large message is not kept, bytes.
const BUILDER_BYTES_KEPT: usize = 256 << 10;
/// What a builder begins with, bytes: a small write or its reply.
const BUILDER_BYTES_MIN: usize = 512;

impl FrameBuilder {
    pub(crate) fn new() -> FrameBuilder {
        FrameBuilder { builder: FlatBufferBuilder::with_capacity(BUILDER_BYTES_MIN) }
    }

    /// Appends to `out` the frame of the message that `build` makes.
    pub(crate) fn append<T>(&mut self, out: &mut Vec<u8>, build: impl FnOnce(&mut FlatBufferBuilder<'static>) -> WIPOffset<T>) {
        let root = build(&mut self.builder);
        self.builder.finish_minimal(root);
        let payload = self.builder.finished_data();
        append_frame(out, payload);
        if payload.len() > BUILDER_BYTES_KEPT {
            self.builder = FlatBufferBuilder::with_capacity(BUILDER_BYTES_MIN);
        } else {
            self.builder.reset();
        }
    }
}
