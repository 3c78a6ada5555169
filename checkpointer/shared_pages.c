#include "checkpointer/shared_pages.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"

#define READ_BYTES   (1024u * 1024u)
#define VECTOR_PAGES (128u * 1024u) /* of mincore(2) in one call: 512 MiB of memory */
_Static_assert(VECTOR_PAGES < REMOTE_ROOM - 80u * 1024u, "the vector fits in the executor's data");

struct reading {
	struct collection *c;
	const struct file_piece *piece;
	struct page_table *table;
	char *buf;
	bool ask; /* mincore(2) tells which pages exist */
};

static int read_piece(const struct file_piece *piece, uint64_t at, char *buf, size_t len, struct err *err)
{
	if (mem_read(piece->pid, piece->start + at, buf, len, err) == 0)
		return 0;
	return mem_read_forced(piece->pid, piece->start + at, buf, len, err);
}

static int put(struct reading *r, uint64_t at, size_t len, struct err *err)
{
	return page_table_put(r->table, (r->piece->offset + at) / STORE_PAGE_SIZE, r->buf,
			      len / STORE_PAGE_SIZE, NULL, err);
}

/* A mapping may reach beyond the end of the file, where reading is SIGBUS; a page that is known to exist and
 * cannot be read lies under a guard region. */
static int put_page_by_page(struct reading *r, uint64_t at, size_t len, struct err *err)
{
	struct err ignored;

	for (size_t done = 0; done < len; done += STORE_PAGE_SIZE) {
		if (read_piece(r->piece, at + done, r->buf, STORE_PAGE_SIZE, &ignored) == 0) {
			if (put(r, at + done, STORE_PAGE_SIZE, err) < 0)
				return -1;
		} else if (r->ask) {
			return err_set(err, ERR_UNSUPPORTED,
				       "shared memory at 0x%llx of process %d lies under a guard region",
				       (unsigned long long)(r->piece->start + at + done), r->piece->pid);
		}
	}
	return 0;
}

static int put_range(struct reading *r, uint64_t from, uint64_t to, struct err *err)
{
	for (uint64_t at = from; at < to; at += READ_BYTES) {
		size_t len = to - at < READ_BYTES ? to - at : READ_BYTES;
		struct err ignored;

		if (read_piece(r->piece, at, r->buf, len, &ignored) < 0
			    ? put_page_by_page(r, at, len, err) < 0
			    : put(r, at, len, err) < 0)
			return -1;
	}
	return 0;
}

static int clear_range(struct reading *r, uint64_t from, uint64_t to, struct err *err)
{
	return page_table_clear(r->table, (r->piece->offset + from) / STORE_PAGE_SIZE,
				(to - from) / STORE_PAGE_SIZE, err);
}

static struct collected_process *find_process(struct collection *c, pid_t pid)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->processes[i].frozen->pid == pid && c->processes[i].remote.mirror)
			return &c->processes[i];
	return NULL;
}

/* Which of n pages from `at` on exist, asked by the process itself; *ret points into the mirror. False: it
 * cannot be told. */
static bool ask_resident(struct reading *r, uint64_t at, size_t n, const unsigned char **ret)
{
	struct collected_process *p = find_process(r->c, r->piece->pid);
	struct remote_call *call;
	struct err ignored;
	uint64_t addr;
	bool done;

	if (!p)
		return false;
	remote_reset(&p->remote);
	*ret = remote_data(&p->remote, n, &addr);
	call = remote_call(&p->remote, SYS_mincore, r->piece->start + at, n * STORE_PAGE_SIZE, addr);
	done = *ret && remote_run(&p->remote, &p->frozen->threads[0]->tracee, &ignored) == 0 && call->ret == 0;
	remote_reset(&p->remote);
	return done;
}

static int put_resident(struct reading *r, uint64_t from, size_t n, const unsigned char *resident,
			struct err *err)
{
	for (size_t i = 0, end; i < n; i = end) {
		uint64_t at = from + i * STORE_PAGE_SIZE;
		bool exists = resident[i] & 1;

		for (end = i + 1; end < n && (resident[end] & 1) == exists;)
			end++;
		if (exists ? put_range(r, at, from + end * STORE_PAGE_SIZE, err) < 0
			   : clear_range(r, at, from + end * STORE_PAGE_SIZE, err) < 0)
			return -1;
	}
	return 0;
}

static int put_piece(struct reading *r, struct err *err)
{
	const uint64_t window = (uint64_t)VECTOR_PAGES * STORE_PAGE_SIZE;

	for (uint64_t at = 0; at < r->piece->len; at += window) {
		uint64_t len = r->piece->len - at < window ? r->piece->len - at : window;
		const unsigned char *resident;

		r->ask = r->ask && ask_resident(r, at, len / STORE_PAGE_SIZE, &resident);
		if (r->ask ? put_resident(r, at, len / STORE_PAGE_SIZE, resident, err) < 0
			   : put_range(r, at, at + len, err) < 0)
			return -1;
	}
	return 0;
}

/* To mincore(2), a page that is swapped out does not exist (mm/mincore.c), nor does one of a file on disk that
 * is not in memory just now. */
static bool can_ask(const Snap__File *f)
{
	cleanup_free char *swaps = NULL;
	struct err ignored;

	if (f->kind == SNAP__FILE__KIND__REGULAR || f->huge_page_shift)
		return false;
	return read_text(AT_FDCWD, "/proc/swaps", &swaps, NULL, &ignored) < 0 || !strstr(swaps, "\n/");
}

int shared_pages_capture(struct collection *c, const Snap__File *f, const struct file_source *s,
			 struct store_session *session, uint64_t base, uint64_t *ret_root, struct err *err)
{
	cleanup_free char *buf = malloc(READ_BYTES);
	struct reading r = {.c = c, .buf = buf};
	bool ask = can_ask(f);

	if (!buf)
		return err_sys(err, "copy of shared memory");
	if (page_table_edit(&r.table, session, base, err) < 0)
		return -1;
	for (size_t i = 0; i < s->n_pieces; i++) {
		r.piece = &s->pieces[i];
		r.ask = ask;
		if (put_piece(&r, err) < 0) {
			page_table_free(r.table);
			return -1;
		}
	}
	return page_table_finish(r.table, ret_root, err);
}
