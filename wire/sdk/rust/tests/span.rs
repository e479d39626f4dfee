//! A call is a span. In a process of its own: a place in the code that another thread reaches for the first time while this one
//! subscribes is off for good (tracing asks the subscribers that it knows at that moment).

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::{Arc, Mutex};

use fake::Ring;
use ringbeam_sdk::Client;

/// A subscriber that writes down the spans of calls.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("ringbeam_sdk")
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut fields = Fields(span.metadata().name().to_string());
        span.record(&mut fields);
        let mut spans = self.0.lock().unwrap();
        spans.push(fields.0);
        tracing::span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        let mut fields = Fields(String::new());
        values.record(&mut fields);
        self.0.lock().unwrap()[span.into_u64() as usize - 1] += &fields.0;
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_call_is_a_span() {
    let ring = Ring::start(3, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("unseen", "1").await.unwrap();
    let spans = Spans::default();
    let _subscribed = tracing::subscriber::set_default(spans.clone());
    client.put("a", "1").await.unwrap();
    ring.lead(3);
    client.put("b", "1").await.unwrap();
    let seen = spans.0.lock().unwrap().clone();
    assert_eq!(
        seen,
        ["call kind=\"put\" shard=0 node=1 attempts=1 ended=Done", "call kind=\"put\" shard=0 node=3 attempts=2 ended=Done"]
    );
}
