#include "store/packdisk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/pack.h"

#define LMDB_HEADER 16u /* of the first of the pages that hold a value of this size (struct MDB_page) */
#define ROOM	    (2u << 20) /* a huge page */
#define ROOM_PAGES  ((PACK_SIZE + LMDB_HEADER) / STORE_PAGE_SIZE)

static_assert(ROOM_PAGES * STORE_PAGE_SIZE <= ROOM, "a pack fits into the buffer");

void pack_disk_open(struct pack_disk *disk, struct store *store)
{
	*disk = (struct pack_disk){.store = store};
	disk->fd = openat(store->dir_fd, "data.mdb", O_RDONLY | O_DIRECT | O_CLOEXEC);
}

void pack_disk_close(struct pack_disk *disk)
{
	cleanup_fd_p(&disk->fd);
	free(disk->room);
	*disk = (struct pack_disk){.fd = -1};
}

/* mincore(2) tells of a file only to those who may write it; to others all seems to be there. */
static bool is_cached(const char *pages, size_t n)
{
	unsigned char there[ROOM_PAGES];
	size_t count = 0;

	if (mincore((void *)(uintptr_t)pages, n * STORE_PAGE_SIZE, there) < 0)
		return true;
	for (size_t i = 0; i < n; i++)
		count += there[i] & 1;
	return count > n / 2;
}

/* In one piece of memory, if there is one: a disk that is given 256 pages one by one takes twice as long (measured on a
 * virtio disk). */
static uint8_t *make_room(void)
{
	uint8_t *room = aligned_alloc(ROOM, ROOM);

	if (room)
		madvise(room, ROOM, MADV_HUGEPAGE);
	return room;
}

static bool is_first_time(struct store *store, uint64_t key)
{
	bool first;

	pthread_mutex_lock(&store->past_mutex);
	first = idset_add(&store->read_past, key) == 1;
	pthread_mutex_unlock(&store->past_mutex);
	return first;
}

void pack_disk_read(struct pack_disk *disk, const char *base, uint64_t key, MDB_val *value)
{
	const char *page = (const char *)value->mv_data - LMDB_HEADER;
	size_t len = value->mv_size + LMDB_HEADER;
	ssize_t got;

	if (disk->fd < 0 || !base || page < base || (page - base) % STORE_PAGE_SIZE != 0 ||
	    len % STORE_PAGE_SIZE != 0 || len > ROOM_PAGES * STORE_PAGE_SIZE ||
	    is_cached(page, len / STORE_PAGE_SIZE) || (disk->once && !is_first_time(disk->store, key)))
		return;
	if (!disk->room && !(disk->room = make_room()))
		return;
	got = pread(disk->fd, disk->room, len, page - base);
	if (got < 0 && errno == EINVAL) /* not every file system says so when it is opened */
		pack_disk_close(disk);
	if (got != (ssize_t)len ||
	    get_le64(disk->room) != (uint64_t)(page - base) / STORE_PAGE_SIZE)
		return;
	value->mv_data = disk->room + LMDB_HEADER;
}
