//! What was appended reads back, before and after a restart.

use corelane_io::sim::Faults;
use corelane_worker::mount::MountId;
use corelane_worker::store::NotKept;

use crate::bed::{Bed, object, pages_of};

#[test]
fn appended_blocks_are_pending_first_and_then_on_the_device() {
    let bed = Bed::new(1, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let meta = object(1, 150_000);
    bed.run(async {
        assert_eq!(shard.append(&meta, 2), Ok(()));
        assert_eq!(shard.append(&meta, 2), Err(NotKept::Present));
        assert!(shard.store.lookup(meta.block(2)).is_none());
        let pending = shard.store.pending(meta.block(2)).expect("appended");
        assert_eq!(pending.checksums().len(), pages_of(&meta, 2) as usize);
        shard.store.flush().await.expect("durable");
        assert!(shard.store.pending(meta.block(2)).is_none());
        let entry = shard.store.lookup(meta.block(2)).expect("written");
        assert_eq!((entry.length, entry.mount), (150_000 - 131_072, MountId(3)));
        assert!(matches!(shard.read(&meta, 2).await, Some(Ok(()))));
        assert_eq!(shard.append_all(&meta).await, 2);
        shard.store.flush().await.expect("durable");
        assert_eq!(shard.readable(&meta).await, 3);
        assert_eq!(shard.store.held(meta.id).blocks, 3);
        assert_eq!(shard.store.held(meta.id).bytes, 150_000);
    });
}

#[test]
fn a_restart_keeps_blocks_and_objects() {
    let bed = Bed::new(2, Faults::none(), 2, 32);
    let shard = bed.open_one();
    assert_eq!((shard.recovery.epoch, shard.recovery.blocks), (1, 0));
    let metas: Vec<_> = (0..40).map(|number| object(number, 200_000)).collect();
    bed.run(async {
        for meta in &metas {
            assert_eq!(shard.append_all(meta).await, 4);
        }
        shard.store.flush().await.expect("durable");
    });
    bed.world.crash();
    let shard = bed.open_one();
    assert_eq!(
        (
            shard.recovery.epoch,
            shard.recovery.blocks,
            shard.recovery.objects
        ),
        (2, 160, 40)
    );
    bed.run(async {
        for meta in &metas {
            assert_eq!(shard.store.object(meta.id).as_ref(), Some(meta));
            assert_eq!(
                shard.store.find_objects(meta.id.home),
                std::slice::from_ref(meta)
            );
            assert_eq!(shard.readable(meta).await, 4);
            assert_eq!(
                shard.store.lookup(meta.block(0)).map(|entry| entry.mount),
                Some(MountId::NONE)
            );
        }
    });
}
