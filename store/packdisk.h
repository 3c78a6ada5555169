/*
 * packdisk.h: packs that are not in the page cache, read from the disk past it.
 *
 * Through the map a pack that is read once costs memory of the page cache, faults, and a wait at each; the store
 * leaves that cache on purpose (store/batch.c), so after a crash nothing of it is there. O_DIRECT into a buffer that
 * is used over and over costs a tenth (measured on a virtual machine, core-seconds per GiB: 0.1 against 0.3 to 3,
 * since memory that the host has taken back is dear to touch), and leaves other files where they are.
 */
#ifndef PAWL_STORE_PACKDISK_H
#define PAWL_STORE_PACKDISK_H

#include "store/txn.h"

struct pack_disk {
	struct store *store;
	int fd; /* -1: the file system does not read so, or cannot tell what it has cached */
	uint8_t *room;
	bool once; /* what was read so before is read through the map: somebody else reads it too */
};

/* Best effort: what cannot be had here is read through the map. */
void pack_disk_open(struct pack_disk *disk, struct store *store);
void pack_disk_close(struct pack_disk *disk);

/* Where the pack's value stands in the map whose base (txn_map_base) is that, and mostly not in the page cache, *value
 * becomes a copy of it that lasts until the next call. Otherwise it stays; so it does, with `once`, when that pack has been
 * read so before: what several processes of a job have in common is read from the disk twice at most. Nothing is checked
 * but that it is LMDB's page of that number. */
void pack_disk_read(struct pack_disk *disk, const char *base, uint64_t key, MDB_val *value);

#endif
