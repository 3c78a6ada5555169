/*
 * packfile.h: files of pages in a replica: written once, then only read (FORMAT.md, "packs/").
 *
 * The bytes of a page are those of the store that it comes from (its origin), under its id there; their hash
 * is made with the origin's secret, the table's checksum with the replica's.
 */
#ifndef PAWL_STORE_REPLICA_PACKFILE_H
#define PAWL_STORE_REPLICA_PACKFILE_H

#include <stdbool.h>

#include "store/hash.h"
#include "store/pack.h"

#define PACKFILE_BYTES (64u << 20) /* about; a file is begun anew when it has more */
#define PACKFILE_NAME  64u

/* Which snapshot a file was begun for. */
struct packfile_tag {
	uint8_t origin[16];
	uint64_t time, generation;
};

/* ---- writing ------------------------------------------------------------------------------- */

struct packfile_writer;

/* A temporary in dir_fd that becomes `name` at the end. */
int packfile_create(struct packfile_writer **ret, int dir_fd, const char *name,
		    const struct packfile_tag *tag, const struct store_secret *secret,
		    struct err *err);
/* Ids ascend. entry.offset is not looked at. */
int packfile_add(struct packfile_writer *w, const struct pack_entry *entry, const void *data,
		 struct err *err);
uint64_t packfile_size(const struct packfile_writer *w);
/* Writes what is buffered; the caller has let go of everything that others wait for. */
int packfile_flush(struct packfile_writer *w, struct err *err);
/* Durable under its name. Frees in any case. */
int packfile_finish(struct packfile_writer *w, struct err *err);
void packfile_abandon(struct packfile_writer *w); /* takes NULL */

/* ---- reading ------------------------------------------------------------------------------- */

struct packfile { /* an open one with its table; whoever has it may read it only */
	int fd;
	struct packfile_tag tag;
	uint32_t count;
	uint64_t data_end;  /* file offset after the last page */
	uint8_t *entries;
	char name[PACKFILE_NAME];
};

/* ERR_CORRUPT names the file and what is wrong; ERR_NOT_FOUND: it is gone. */
int packfile_open(struct packfile *ret, int dir_fd, const char *name,
		  const struct store_secret *secret, struct err *err);
void packfile_close(struct packfile *file);
struct pack_entry packfile_entry(const struct packfile *file, uint32_t i); /* i < count */
int64_t packfile_find(const struct packfile *file, uint64_t id);	    /* -1: not in it */
/* Pages of entries i … i+n-1, checked, into pages (n * 4096 bytes). */
int packfile_read(const struct packfile *file, uint32_t i, uint32_t n,
		  const struct store_secret *origin_secret, void *dctx, void *pages,
		  struct err *err);

/* Characters of a hexadecimal name, 16 digits, and no path. */
bool packfile_name_is_sound(const char *name);

#endif
