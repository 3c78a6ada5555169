#include "store/replica/packfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/search.h"
#include "store/bytes.h"
#include "store/record.h"
#include "store/replica/dirfile.h"

#define MAGIC_PACKS  MAGIC('P', 'W', 'P', 1)
#define HEADER_BYTES 48u
#define ENTRY_BYTES  36u
#define FOOTER_BYTES 32u
#define COUNT_MOST   (PACKFILE_BYTES / 8)
#define BUFFER_BYTES (4u << 20)

enum { /* offsets in the header */
	AT_MAGIC = 0,
	AT_ORIGIN = 8,
	AT_TIME = 24,
	AT_GENERATION = 32,
};

enum { /* offsets in the footer */
	AT_DATA_END = 0,
	AT_COUNT = 8,
	AT_FOOTER_MAGIC = 12,
	AT_SUM = 16,
};

struct packfile_writer {
	int dir_fd;
	char name[PACKFILE_NAME], temp[PACKFILE_NAME + 8];
	int fd;
	struct store_secret secret;
	uint8_t header[HEADER_BYTES];
	uint8_t *buffer;
	size_t buffered;
	uint64_t written;
	uint8_t *entries;
	uint32_t count, room;
};

static uint64_t table_sum(const struct store_secret *secret, const uint8_t *header,
			  const uint8_t *entries, uint32_t count, const uint8_t *footer)
{
	struct sum_part parts[] = {
		{header, HEADER_BYTES},
		{entries, (size_t)count * ENTRY_BYTES},
		{footer, AT_SUM},
	};

	return checksum_parts(secret, parts, 3);
}

bool packfile_name_is_sound(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len < PACKFILE_NAME - 8 && strspn(name, "0123456789abcdef-") == len;
}

/* ---- writing ------------------------------------------------------------------------------- */

static void writer_free(struct packfile_writer *w)
{
	if (w->fd >= 0)
		close(w->fd);
	free(w->buffer);
	free(w->entries);
	free(w);
}

int packfile_create(struct packfile_writer **ret, int dir_fd, const char *name,
		    const struct packfile_tag *tag, const struct store_secret *secret,
		    struct err *err)
{
	struct packfile_writer *w = calloc(1, sizeof(*w));

	if (!w || !(w->buffer = malloc(BUFFER_BYTES))) {
		free(w);
		return err_sys(err, "packs/%s", name);
	}
	w->dir_fd = dir_fd;
	w->secret = *secret;
	snprintf(w->name, sizeof(w->name), "%s", name);
	snprintf(w->temp, sizeof(w->temp), "%s.tmp", name);
	w->fd = openat(dir_fd, w->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (w->fd < 0) {
		err_sys(err, "cannot create packs/%s", w->temp);
		writer_free(w);
		return -1;
	}
	put_le32(w->header + AT_MAGIC, MAGIC_PACKS);
	memcpy(w->header + AT_ORIGIN, tag->origin, sizeof(tag->origin));
	put_le64(w->header + AT_TIME, tag->time);
	put_le64(w->header + AT_GENERATION, tag->generation);
	memcpy(w->buffer, w->header, HEADER_BYTES);
	w->buffered = HEADER_BYTES;
	*ret = w;
	return 0;
}

uint64_t packfile_size(const struct packfile_writer *w)
{
	return w->written + w->buffered;
}

int packfile_flush(struct packfile_writer *w, struct err *err)
{
	if (w->buffered && write_full(w->fd, w->buffer, w->buffered) < 0)
		return err_sys(err, "cannot write packs/%s", w->name);
	w->written += w->buffered;
	w->buffered = 0;
	return 0;
}

static void write_entry(uint8_t *p, const struct pack_entry *e)
{
	put_le64(p, e->id);
	put_le64(p + 8, e->offset);
	put_le16(p + 16, e->len);
	p[18] = e->codec;
	p[19] = 0;
	put_le64(p + 20, e->hash.lo);
	put_le64(p + 28, e->hash.hi);
}

int packfile_add(struct packfile_writer *w, const struct pack_entry *entry, const void *data,
		 struct err *err)
{
	struct pack_entry e = *entry;

	if (w->count == w->room) {
		uint32_t room = w->room ? 2 * w->room : 4096;
		uint8_t *more = reallocarray(w->entries, room, ENTRY_BYTES);

		if (!more)
			return err_sys(err, "packs/%s", w->name);
		w->entries = more;
		w->room = room;
	}
	if (BUFFER_BYTES - w->buffered < e.len && packfile_flush(w, err) < 0)
		return -1;
	e.offset = (uint32_t)packfile_size(w);
	memcpy(w->buffer + w->buffered, data, e.len);
	w->buffered += e.len;
	write_entry(w->entries + (size_t)w->count++ * ENTRY_BYTES, &e);
	return 0;
}

static int write_table(struct packfile_writer *w, struct err *err)
{
	uint8_t footer[FOOTER_BYTES] = {0};

	if (packfile_flush(w, err) < 0)
		return -1;
	put_le64(footer + AT_DATA_END, w->written);
	put_le32(footer + AT_COUNT, w->count);
	put_le32(footer + AT_FOOTER_MAGIC, MAGIC_PACKS);
	put_le64(footer + AT_SUM, table_sum(&w->secret, w->header, w->entries, w->count, footer));
	if (write_full(w->fd, w->entries, (size_t)w->count * ENTRY_BYTES) < 0 ||
	    write_full(w->fd, footer, sizeof(footer)) < 0 || fsync(w->fd) < 0)
		return err_sys(err, "cannot write packs/%s", w->name);
	return 0;
}

int packfile_finish(struct packfile_writer *w, struct err *err)
{
	int rc = write_table(w, err);

	if (rc == 0 && (renameat(w->dir_fd, w->temp, w->dir_fd, w->name) < 0 || fsync(w->dir_fd) < 0))
		rc = err_sys(err, "cannot write packs/%s", w->name);
	if (rc < 0)
		unlinkat(w->dir_fd, w->temp, 0);
	writer_free(w);
	return rc;
}

void packfile_abandon(struct packfile_writer *w)
{
	if (!w)
		return;
	unlinkat(w->dir_fd, w->temp, 0);
	writer_free(w);
}

/* ---- reading ------------------------------------------------------------------------------- */

struct pack_entry packfile_entry(const struct packfile *file, uint32_t i)
{
	const uint8_t *p = file->entries + (size_t)i * ENTRY_BYTES;

	return (struct pack_entry){
		.id = get_le64(p),
		.offset = (uint32_t)get_le64(p + 8),
		.len = get_le16(p + 16),
		.codec = p[18],
		.hash = {get_le64(p + 20), get_le64(p + 28)},
	};
}

/* Pages back to back, ids ascending: then any run of entries is one stretch of the file. */
static bool entries_are_sound(const struct packfile *file)
{
	uint64_t at = HEADER_BYTES, last = 0;

	for (uint32_t i = 0; i < file->count; i++) {
		struct pack_entry e = packfile_entry(file, i);

		if (e.id <= last || e.offset != at ||
		    get_le64(file->entries + (size_t)i * ENTRY_BYTES + 8) != at)
			return false;
		last = e.id;
		at += e.len;
	}
	return at == file->data_end;
}

static int read_at(struct packfile *file, void *buf, size_t len, uint64_t at, struct err *err)
{
	ssize_t n = pread_upto(file->fd, buf, len, (off_t)at);

	if (n < 0)
		return err_sys(err, "cannot read packs/%s", file->name);
	if ((size_t)n < len)
		return err_set(err, ERR_CORRUPT, "packs/%s is cut short", file->name);
	return 0;
}

static int read_table(struct packfile *file, uint64_t size, const struct store_secret *secret,
		      struct err *err)
{
	uint8_t header[HEADER_BYTES], footer[FOOTER_BYTES];

	if (size < HEADER_BYTES + FOOTER_BYTES)
		return err_set(err, ERR_CORRUPT, "packs/%s is cut short", file->name);
	if (read_at(file, header, sizeof(header), 0, err) < 0 ||
	    read_at(file, footer, sizeof(footer), size - FOOTER_BYTES, err) < 0)
		return -1;
	file->data_end = get_le64(footer + AT_DATA_END);
	file->count = get_le32(footer + AT_COUNT);
	if (get_le32(header + AT_MAGIC) != MAGIC_PACKS ||
	    get_le32(footer + AT_FOOTER_MAGIC) != MAGIC_PACKS || file->count > COUNT_MOST ||
	    file->data_end > UINT32_MAX ||
	    file->data_end + (uint64_t)file->count * ENTRY_BYTES + FOOTER_BYTES != size)
		return err_set(err, ERR_CORRUPT, "packs/%s: its table is out of bounds",
			       file->name);
	file->entries = malloc((size_t)file->count * ENTRY_BYTES + 1);
	if (!file->entries)
		return err_sys(err, "packs/%s", file->name);
	if (read_at(file, file->entries, (size_t)file->count * ENTRY_BYTES, file->data_end, err) < 0)
		return -1;
	if (get_le64(footer + AT_SUM) !=
		    table_sum(secret, header, file->entries, file->count, footer) ||
	    !entries_are_sound(file))
		return err_set(err, ERR_CORRUPT, "packs/%s: its table is damaged", file->name);
	memcpy(file->tag.origin, header + AT_ORIGIN, sizeof(file->tag.origin));
	file->tag.time = get_le64(header + AT_TIME);
	file->tag.generation = get_le64(header + AT_GENERATION);
	return 0;
}

int packfile_open(struct packfile *ret, int dir_fd, const char *name,
		  const struct store_secret *secret, struct err *err)
{
	struct packfile file = {.fd = -1};
	uint64_t size;

	if (!packfile_name_is_sound(name))
		return err_set(err, ERR_CORRUPT, "'%.60s' is no name of a file of pages", name);
	snprintf(file.name, sizeof(file.name), "%s", name);
	file.fd = dirfile_open(dir_fd, name, &size, err);
	if (file.fd < 0)
		return err_wrap(err, "packs");
	if (read_table(&file, size, secret, err) < 0) {
		packfile_close(&file);
		return -1;
	}
	*ret = file;
	return 0;
}

void packfile_close(struct packfile *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
	free(file->entries);
	file->entries = NULL;
}

static uint64_t entry_id(const struct packfile *file, size_t i)
{
	return get_le64(file->entries + i * ENTRY_BYTES);
}

int64_t packfile_find(const struct packfile *file, uint64_t id)
{
	size_t at = COUNT_BEFORE(file->count, i, entry_id(file, i) < id);

	return at < file->count && entry_id(file, at) == id ? (int64_t)at : -1;
}

int packfile_read(const struct packfile *file, uint32_t i, uint32_t n,
		  const struct store_secret *origin_secret, void *dctx, void *pages,
		  struct err *err)
{
	struct pack_entry first = packfile_entry(file, i), last = packfile_entry(file, i + n - 1);
	size_t len = last.offset + last.len - first.offset;
	cleanup_free uint8_t *data = malloc(len + 1);

	if (!data)
		return err_sys(err, "packs/%s", file->name);
	if (read_at((struct packfile *)file, data, len, first.offset, err) < 0)
		return -1;
	for (uint32_t k = 0; k < n; k++) {
		struct pack_entry e = packfile_entry(file, i + k);

		if (page_unpack(data + (e.offset - first.offset), e.len, e.codec, e.hash,
				origin_secret, dctx, (uint8_t *)pages + (size_t)k * STORE_PAGE_SIZE) < 0)
			return err_set(err, ERR_CORRUPT, "packs/%s: page %" PRIu64 " is damaged",
				       file->name, e.id);
	}
	return 0;
}
