#include "checkpointer/content_pieces.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/track.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

/* One mincore call answers for so many pages: its answer must fit into the executor's data. */
#define PAGES_AT_ONCE (128u * 1024u)

void piece_list_free(struct piece_list *pieces)
{
	free(pieces->list);
	*pieces = (struct piece_list){0};
}

static int add(struct piece_list *to, size_t *room, const struct file_piece *mapping, uint64_t start,
	       uint64_t end, struct err *err)
{
	struct file_piece *last = to->n ? &to->list[to->n - 1] : NULL;

	if (last && last->pid == mapping->pid && last->start + last->len == start &&
	    last->offset + last->len == mapping->offset + (start - mapping->start)) {
		last->len += end - start;
		return 0;
	}
	if (to->n == *room) {
		size_t more_room = *room ? *room * 2 : 64;
		struct file_piece *more = reallocarray(to->list, more_room, sizeof(*more));

		if (!more)
			return err_sys(err, "list of shared memory");
		to->list = more;
		*room = more_room;
	}
	to->list[to->n++] = (struct file_piece){.pid = mapping->pid,
						.start = start,
						.offset = mapping->offset + (start - mapping->start),
						.len = end - start};
	return 0;
}

static int compare_offsets(const void *a, const void *b)
{
	const struct file_piece *x = a, *y = b;

	return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Sorts, and drops what is there twice. */
static void make_disjoint(struct piece_list *pieces)
{
	uint64_t end = 0;
	size_t kept = 0;

	if (pieces->n)
		qsort(pieces->list, pieces->n, sizeof(*pieces->list), compare_offsets);
	for (size_t i = 0; i < pieces->n; i++) {
		struct file_piece p = pieces->list[i];
		uint64_t skip = end > p.offset ? end - p.offset : 0;

		if (skip >= p.len)
			continue;
		p.start += skip;
		p.offset += skip;
		p.len -= skip;
		end = p.offset + p.len;
		pieces->list[kept++] = p;
	}
	pieces->n = kept;
}

static int finish(struct piece_list *made, int result, struct piece_list *ret)
{
	if (result < 0) {
		piece_list_free(made);
		return -1;
	}
	make_disjoint(made);
	*ret = *made;
	return 0;
}

static int add_present(struct piece_list *to, size_t *room, const struct file_piece *mapping,
		       struct err *err)
{
	struct scan_result seen = {0};
	struct err ignored;
	int result = 0;

	/* A process that has ended has nothing to show; in the pause others are asked. */
	if (scan_populated(mapping->pid, mapping->start, mapping->start + mapping->len, &seen,
			   &ignored) < 0)
		seen.n = 0;
	for (size_t i = 0; i < seen.n && result == 0; i++)
		result = add(to, room, mapping, seen.ranges[i].start, seen.ranges[i].end, err);
	scan_result_free(&seen);
	return result;
}

int pieces_present(const struct file_source *s, struct piece_list *ret, struct err *err)
{
	struct piece_list made = {0};
	size_t room = 0;
	int result = 0;

	for (size_t i = 0; i < s->n_pieces && result == 0; i++)
		result = add_present(&made, &room, &s->pieces[i], err);
	return finish(&made, result, ret);
}

/* ---- in the pause -------------------------------------------------------------------------- */

/* Pages that are swapped out are not resident, but exist. */
static bool swap_is_used(void)
{
	cleanup_free char *text = NULL;
	unsigned long total, unused;
	const char *a, *b;
	struct err ignored;

	if (read_text(AT_FDCWD, "/proc/meminfo", &text, NULL, &ignored) < 0)
		return true;
	a = strstr(text, "SwapTotal:");
	b = strstr(text, "SwapFree:");
	return !a || !b || sscanf(a, "SwapTotal: %lu", &total) != 1 ||
	       sscanf(b, "SwapFree: %lu", &unused) != 1 || unused < total;
}

static struct collected_process *find_process(const struct collection *c, pid_t pid)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->processes[i].frozen->pid == pid && c->processes[i].remote.mirror)
			return &c->processes[i];
	return NULL;
}

/* One call's worth. Where the process cannot tell, all of it counts as existing. */
static int add_resident(struct piece_list *to, size_t *room, const struct file_piece *mapping,
			struct collected_process *p, uint64_t start, uint64_t pages, struct err *err)
{
	struct remote_call *call;
	const uint8_t *answer;
	uint64_t addr;
	int result = 0;

	remote_reset(&p->remote);
	answer = remote_data(&p->remote, pages, &addr);
	call = remote_call(&p->remote, SYS_mincore, start, pages * STORE_PAGE_SIZE, addr);
	if (remote_run(&p->remote, &p->frozen->threads[0]->tracee, err) < 0)
		return -1;
	for (uint64_t i = 0; i < pages && result == 0; i++)
		if (call->ret < 0 || (answer[i] & 1))
			result = add(to, room, mapping, start + i * STORE_PAGE_SIZE,
				     start + (i + 1) * STORE_PAGE_SIZE, err);
	remote_reset(&p->remote);
	return result;
}

/* What is mapped in pawl itself. */
static int add_own(struct piece_list *to, size_t *room, const struct file_piece *mapping, struct err *err)
{
	size_t pages = mapping->len / STORE_PAGE_SIZE;
	cleanup_free uint8_t *answer = malloc(pages + 1);
	int result = 0;

	if (!answer)
		return err_sys(err, "list of shared memory");
	if (mincore((void *)(uintptr_t)mapping->start, mapping->len, answer) < 0)
		memset(answer, 1, pages);
	for (size_t i = 0; i < pages && result == 0; i++)
		if (answer[i] & 1)
			result = add(to, room, mapping, mapping->start + i * STORE_PAGE_SIZE,
				     mapping->start + (i + 1) * STORE_PAGE_SIZE, err);
	return result;
}

static int add_mapping(struct piece_list *to, size_t *room, const struct file_piece *mapping, bool ask,
		       struct collected_process *p, struct err *err)
{
	uint64_t end = mapping->start + mapping->len;

	if (ask && mapping->pid == getpid())
		return add_own(to, room, mapping, err);
	if (!ask || !p)
		return add(to, room, mapping, mapping->start, end, err);
	for (uint64_t at = mapping->start, n; at < end; at += n * STORE_PAGE_SIZE) {
		n = (end - at) / STORE_PAGE_SIZE;
		n = n < PAGES_AT_ONCE ? n : PAGES_AT_ONCE;
		if (add_resident(to, room, mapping, p, at, n, err) < 0)
			return -1;
	}
	return 0;
}

int pieces_resident(const struct collection *c, const struct file_source *s, struct piece_list *ret,
		    struct err *err)
{
	/* Of huge pages mincore(2) knows those in the process's own page table only (mm/mincore.c). */
	bool ask = !s->huge && !swap_is_used();
	struct piece_list made = {0};
	size_t room = 0;
	int result = 0;

	for (size_t i = 0; i < s->n_pieces && result == 0; i++)
		result = add_mapping(&made, &room, &s->pieces[i], ask,
				     find_process(c, s->pieces[i].pid), err);
	return finish(&made, result, ret);
}
