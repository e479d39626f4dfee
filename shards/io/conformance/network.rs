//! Connections.

use std::time::Duration;

use super::{Env, Net, Reader, World, once, race};
use crate::io::Writer;

type ReaderOf<E> = <<E as Env>::Net as Net>::Reader;
type WriterOf<E> = <<E as Env>::Net as Net>::Writer;
type Ends<E> = ((ReaderOf<E>, WriterOf<E>), (ReaderOf<E>, WriterOf<E>));

/// Both ends of a new connection: who connected, and who accepted.
async fn pair<E: Env>(world: &impl World<E>, tag: u8) -> Ends<E> {
    let preamble = world.preamble(tag);
    let connected = world.net().connect(&world.address(), preamble).await.expect("connect");
    let (got, reader, writer) = world.net().accept().await.expect("accept");
    assert_eq!(got, preamble, "the preamble arrives as it was sent");
    (connected, (reader, writer))
}

async fn read_exactly(reader: &mut impl Reader, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        let got = reader.read(&mut read[filled..]).await.expect("read");
        assert!(got > 0, "the connection ended after {filled} of {bytes} bytes");
        filled += got;
    }
    read
}

/// True when the connection has ended, by an end or by an error.
async fn ended(reader: &mut impl Reader) -> bool {
    !matches!(reader.read(&mut [0; 64]).await, Ok(bytes) if bytes > 0)
}

fn numbered(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from((i * 7 + i / 251 + seed) % 256).expect("below 256")).collect()
}

pub(super) async fn preamble_and_bytes_arrive_in_order<E: Env>(world: &impl World<E>) {
    let ((mut near_reader, mut near_writer), (mut far_reader, mut far_writer)) = pair::<E>(world, 1).await;
    for round in 0..50 {
        let sent = numbered(1 + round * 37, round);
        near_writer.write_all(&sent).await.expect("write");
        assert_eq!(read_exactly(&mut far_reader, sent.len()).await, sent);
        far_writer.write_all(&sent).await.expect("write back");
        assert_eq!(read_exactly(&mut near_reader, sent.len()).await, sent);
    }
}

pub(super) async fn connection_waits_to_be_accepted<E: Env>(world: &impl World<E>) {
    let net = world.net();
    let (_reader, mut writer) = net.connect(&world.address(), world.preamble(2)).await.expect("connect");
    writer.write_all(b"early").await.expect("write");
    E::sleep(Duration::from_millis(5)).await;
    let (_, mut reader, _writer) = net.accept().await.expect("accept");
    assert_eq!(read_exactly(&mut reader, 5).await, b"early");
}

pub(super) async fn sender_faster_than_reader_loses_nothing<E: Env>(world: &impl World<E>) {
    let (near, (mut far_reader, _far_writer)) = pair::<E>(world, 3).await;
    let sent = numbered(12 << 20, 3);
    let (expected, (_near_reader, mut near_writer)) = (sent.clone(), near);
    E::spawn(async move {
        near_writer.write_all(&sent).await.expect("write");
        near_writer.shutdown().await.expect("shutdown");
    });
    E::sleep(Duration::from_millis(5)).await;
    let received = read_exactly(&mut far_reader, expected.len()).await;
    assert!(received == expected, "twelve megabytes arrived changed");
    assert!(ended(&mut far_reader).await);
}

pub(super) async fn bytes_before_the_end_arrive_and_then_the_end<E: Env>(world: &impl World<E>) {
    let ((_near_reader, mut near_writer), (mut far_reader, _far_writer)) = pair::<E>(world, 4).await;
    near_writer.write_all(b"last words").await.expect("write");
    near_writer.shutdown().await.expect("shutdown");
    assert_eq!(read_exactly(&mut far_reader, 10).await, b"last words");
    assert_eq!(far_reader.read(&mut [0; 8]).await.expect("an orderly end"), 0);
    assert_eq!(far_reader.read(&mut [0; 8]).await.expect("and it stays"), 0);
}

pub(super) async fn shutdown_ends_the_own_reader<E: Env>(world: &impl World<E>) {
    let ((mut near_reader, mut near_writer), _far) = pair::<E>(world, 5).await;
    let reading = async {
        assert!(ended(&mut near_reader).await, "a reader that waits sees its writer's shutdown");
    };
    let mut reading = Box::pin(reading);
    assert!(once(reading.as_mut()).await.is_none(), "there was nothing to read yet");
    near_writer.shutdown().await.expect("shutdown");
    reading.await;
    near_writer.shutdown().await.expect("a second shutdown is nothing");
}

pub(super) async fn dropped_connection_ends_the_other_side<E: Env>(world: &impl World<E>) {
    let (near, (mut far_reader, mut far_writer)) = pair::<E>(world, 6).await;
    drop(near);
    assert!(ended(&mut far_reader).await);
    // What is sent into a dead connection fails sooner or later, not for ever later.
    for _ in 0..1_000 {
        if far_writer.write_all(&[0; 4096]).await.is_err() {
            return;
        }
        E::sleep(Duration::from_millis(1)).await;
    }
    panic!("a thousand writes into a connection that the other side has closed");
}

pub(super) async fn dropped_half_leaves_the_other_working<E: Env>(world: &impl World<E>) {
    let ((near_reader, mut near_writer), (mut far_reader, far_writer)) = pair::<E>(world, 7).await;
    drop(near_reader);
    drop(far_writer);
    E::sleep(Duration::from_millis(2)).await;
    near_writer.write_all(b"one way").await.expect("write");
    assert_eq!(read_exactly(&mut far_reader, 7).await, b"one way");
    drop(near_writer);
    assert!(ended(&mut far_reader).await);
}

pub(super) async fn dropped_read_consumes_nothing<E: Env>(world: &impl World<E>) {
    let ((_near_reader, mut near_writer), (mut far_reader, _far_writer)) = pair::<E>(world, 8).await;
    let sent = numbered(4_000, 8);
    let expected = sent.clone();
    E::spawn(async move {
        for piece in sent.chunks(100) {
            near_writer.write_all(piece).await.expect("write");
            E::sleep(Duration::from_micros(300)).await;
        }
        E::sleep(Duration::from_secs(1)).await;
    });
    let mut received = Vec::new();
    while received.len() < expected.len() {
        let mut buffer = [0; 64];
        if let Some(got) = race(far_reader.read(&mut buffer), E::sleep(Duration::from_micros(100))).await {
            let got = got.expect("read");
            assert!(got > 0, "ended early");
            received.extend_from_slice(&buffer[..got]);
        }
    }
    assert_eq!(received, expected);
}

pub(super) async fn dropped_accept_loses_nothing<E: Env>(world: &impl World<E>) {
    let net = world.net();
    assert!(once(net.accept()).await.is_none(), "nobody has connected");
    let mut waiting = Box::pin(net.accept());
    assert!(once(waiting.as_mut()).await.is_none(), "nobody has connected");
    let _near = net.connect(&world.address(), world.preamble(9)).await.expect("connect");
    E::sleep(Duration::from_millis(20)).await;
    drop(waiting); // woken by now, and not polled again
    let (preamble, _reader, _writer) = net.accept().await.expect("accept");
    assert_eq!(preamble, world.preamble(9));
}

pub(super) async fn many_connections_at_once<E: Env>(world: &impl World<E>) {
    const CONNECTIONS: u8 = 200;
    let net = world.net();
    let (echoes, mut echoed) = crate::io::channel::mpsc::channel(usize::from(CONNECTIONS));
    for tag in 0..CONNECTIONS {
        let (net, address, preamble, echoes) = (world.net(), world.address(), world.preamble(tag), echoes.clone());
        E::spawn(async move {
            let (mut reader, mut writer) = net.connect(&address, preamble).await.expect("connect");
            writer.write_all(&[tag; 32]).await.expect("write");
            assert_eq!(read_exactly(&mut reader, 32).await, [tag; 32]);
            echoes.try_send(tag).expect("room for all");
        });
    }
    for _ in 0..CONNECTIONS {
        let (_, mut reader, mut writer) = net.accept().await.expect("accept");
        E::spawn(async move {
            let read = read_exactly(&mut reader, 32).await;
            writer.write_all(&read).await.expect("write");
            assert!(ended(&mut reader).await);
        });
    }
    let mut tags = Vec::new();
    while tags.len() < usize::from(CONNECTIONS) {
        tags.push(echoed.recv().await.expect("all answer"));
    }
    tags.sort_unstable();
    assert_eq!(tags, (0..CONNECTIONS).collect::<Vec<_>>());
}

pub(super) async fn connect_to_nobody_fails<E: Env>(world: &impl World<E>) {
    let net = world.net();
    let failed = net.connect(&world.silent_address(), world.preamble(0)).await;
    let error = failed.err().expect("nobody listens there");
    assert!(error.to_string().contains(&world.silent_address()), "the error names the address: {error}");
    let nonsense = net.connect("not an address", world.preamble(0)).await;
    assert!(nonsense.is_err());
}

/// The last check: nothing arrives in this world afterwards.
pub(super) async fn nobody_is_accepted_after_the_close<E: Env>(world: &impl World<E>) {
    let net = world.net();
    assert!(once(net.stopping()).await.is_none(), "nobody has asked this node to stop");
    let mut waiting = Box::pin(net.accept());
    assert!(once(waiting.as_mut()).await.is_none(), "nobody has connected");
    world.net().close();
    assert!(waiting.await.is_none(), "who waits for a connection is told of the close");
    assert!(net.accept().await.is_none(), "and who comes later");
    if let Ok((mut reader, _writer)) = net.connect(&world.address(), world.preamble(10)).await {
        assert!(ended(&mut reader).await, "a connection that nobody will accept ends");
    }
    assert!(net.accept().await.is_none(), "it stays closed");
}
