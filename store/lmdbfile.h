/*
 * lmdbfile.h: is data.mdb safe to hand to LMDB?
 *
 * LMDB 0.9 trusts its file: a page number beyond the end is a SIGBUS, a wild offset reads anywhere.
 * Before LMDB walks its trees we walk them ourselves, with every bound checked: all pages that can be
 * reached are inside the file, well-formed, and used once; none of them is in the free list. What
 * the values hold is not looked at here (their own checksums do that). The headers of overflow pages,
 * one a pack, matter only when the value is deleted: opening does not read them all (that would be a
 * seek a pack), deleting does (value_is_sound in txn.h), and verification (deep) does.
 */
#ifndef PAWL_STORE_LMDBFILE_H
#define PAWL_STORE_LMDBFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

struct store;

/* Where the bytes come from: a file, or a fuzzer's buffer. */
struct lmdbfile_source {
	void *ctx;
	/* Bytes read at offset, short only at the end of the file; -1 with errno. */
	ssize_t (*read)(void *ctx, void *buf, size_t len, uint64_t offset);
	uint64_t size;
};

/* The two meta pages: ERR_VERSION for what is no LMDB file of this machine's kind, ERR_CORRUPT for an
 * empty or cut one. Before mdb_env_open. */
int lmdbfile_check_header(int dir_fd, const char *dir, struct err *err);

/* The whole structure as transaction txnid sees it. 1: checked; 0: both meta pages are of other
 * transactions (a writer went on meanwhile); -1: ERR_CORRUPT says which page. */
int lmdbfile_walk(const struct lmdbfile_source *source, uint64_t txnid, bool deep, struct err *err);

/* lmdbfile_walk over the open store's file, in a read transaction. */
int lmdbfile_check(struct store *store, bool deep, struct err *err);

#endif
