#include "recovery/ahead.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "recovery/batch.h"
#include "recovery/fill.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/search.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#define LEAST (1ull << 20) /* bytes of a region: below, it is filled as fast as it is mapped */
/* Each of the job's processes gets a page table for all of it, which costs about a fortieth of filling it. */
#define PROCESSES_MOST 16

struct ahead {
	struct region_image image;  /* private anonymous memory of the donor, readable and writable; INHERIT_AHEAD */
	struct store_session *hold; /* keeps the snapshot that it is of in the store */
	struct stub donor;
	Snap__Process model; /* of the donor: its pid in the capsule, nothing else */
};

/* ---- which regions ------------------------------------------------------------------------- */

static bool fits(const Snap__Region *r)
{
	return r->kind == SNAP__REGION__KIND__ANONYMOUS && r->end - r->start >= LEAST &&
	       r->prot & PROT_WRITE && !(r->advice & ADVICE_DROPPABLE) &&
	       !(region_map_flags(r) & (MAP_GROWSDOWN | MAP_HUGETLB));
}

static struct image_piece piece_of(const Snap__Process *p, const Snap__Region *r)
{
	struct image_piece piece = {.source = INHERIT_AHEAD, .root = p->pages_root};

	snap__region__init(&piece.region);
	piece.region.kind = r->kind;
	piece.region.start = r->start;
	piece.region.end = r->end;
	piece.region.prot = PROT_READ | PROT_WRITE;
	piece.region.map_flags = r->map_flags;
	piece.region.advice = r->advice;
	piece.region.file = r->file;
	return piece;
}

static int compare_pieces(const void *a, const void *b)
{
	const struct image_piece *x = a, *y = b;

	return (x->region.start > y->region.start) - (x->region.start < y->region.start);
}

/* Of regions of several processes at the same place one is taken: others are mostly copies of it. */
static void drop_overlaps(struct region_image *image)
{
	uint64_t end = 0;
	size_t kept = 0;

	qsort(image->pieces, image->n, sizeof(*image->pieces), compare_pieces);
	for (size_t i = 0; i < image->n; i++) {
		if (image->pieces[i].region.start < end)
			continue;
		end = image->pieces[i].region.end;
		image->pieces[kept++] = image->pieces[i];
	}
	image->n = kept;
}

static int list_wanted(struct region_image *ret, const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];

		for (size_t k = 0; plan_owns_memory(p) && k < p->n_regions; k++) {
			const struct image_piece piece = piece_of(p, p->regions[k]);

			if (fits(p->regions[k]) && image_add(ret, &piece, err) < 0)
				return -1;
		}
	}
	if (ret->n)
		drop_overlaps(ret);
	return 0;
}

/* ---- the donor ----------------------------------------------------------------------------- */

/* Out of the way of the job's pids, which follow on each other from below. 0: any. */
static pid_t high_pid(void)
{
	cleanup_free char *text = NULL;
	struct err ignored;

	if (read_text(AT_FDCWD, "/proc/sys/kernel/pid_max", &text, NULL, &ignored) < 0)
		return 0;
	return (pid_t)strtol(text, NULL, 10) - 1;
}

/* Stops the donor and makes it work for the calling thread, with nothing in the way of what it is to get. */
static int stop_donor(struct ahead *a, const Snap__Snapshot *model, struct err *err)
{
	struct stub *donor = &a->donor;
	struct tracee *t = &donor->threads[0];
	uint64_t executor;

	if (stub_executor_place(donor, model, &executor, err) < 0 || tracee_seize(t, donor->pid, donor->pid, err) < 0)
		return -1;
	donor->n_threads = 1;
	if (tracee_wait_stop(t, err) < 0 || remote_begin(&donor->remote, t, executor, REMOTE_ROOM, err) < 0)
		return -1;
	donor->has_executor = true;
	return 0;
}

static int let_donor_wait(struct ahead *a, struct err *err)
{
	struct stub *donor = &a->donor;

	if (remote_end(&donor->remote, &donor->threads[0], err) < 0)
		return -1;
	donor->has_executor = false;
	donor->n_threads = 0;
	return tracee_detach(&donor->threads[0], err);
}

static int make_donor(struct ahead *a, const struct recovery_host *host, struct err *err)
{
	struct stub *donor = &a->donor;

	snap__process__init(&a->model);
	a->model.pid = high_pid();
	*donor = (struct stub){.model = &a->model, .pidfd = -1, .own = &a->image, .mapped = true, .memory = donor,
			       .socket = host->stub_socket, .threads = calloc(1, sizeof(*donor->threads))};
	if (!donor->threads)
		return err_set(err, ERR_SYSTEM, "out of memory");
	return host->spawn(host->ctx, a->model.pid, &donor->pid, &donor->pidfd, err);
}

static bool lives(const struct ahead *a)
{
	struct pollfd end = {.fd = a->donor.pidfd, .events = POLLIN};

	return a->donor.pidfd >= 0 && poll(&end, 1, 0) == 0;
}

/* ---- mapping ------------------------------------------------------------------------------- */

static int queue_unmap(struct batch *b, uint64_t start, uint64_t end, struct err *err)
{
	return batch_call(b, BATCH_MUST, err, SYS_munmap, ARGS(start, end - start), "unmap %#" PRIx64, start);
}

/* Where there is no room for it, it is found missing. */
static int queue_map(struct batch *b, const Snap__Region *r, struct err *err)
{
	if (batch_call(b, BATCH_IGNORE, err, SYS_mmap,
		       ARGS(r->start, r->end - r->start, PROT_READ | PROT_WRITE, (uint64_t)region_map_flags(r),
			    (uint64_t)-1, 0),
		       "map %#" PRIx64, r->start) < 0)
		return -1;
	if (!region_map_advice(r))
		return 0;
	return batch_call(b, BATCH_IGNORE, err, SYS_madvise,
			  ARGS(r->start, r->end - r->start, (uint64_t)region_map_advice(r)), "huge page advice");
}

/* The piece of `image` that the region continues, or NULL. */
static const struct image_piece *find_old(const struct region_image *image, const Snap__Region *r)
{
	size_t i = image_find(image, r->start);
	const struct image_piece *old = i < image->n ? &image->pieces[i] : NULL;

	return old && old->region.start == r->start && image_alike(&old->region, r) ? old : NULL;
}

static int queue_grow(struct batch *b, const Snap__Region *from, const Snap__Region *to, struct err *err)
{
	if (to->end <= from->end)
		return 0;
	return batch_call(b, BATCH_IGNORE, err, SYS_mremap,
			  ARGS(from->start, from->end - from->start, to->end - from->start, 0), "grow %#" PRIx64,
			  from->start);
}

/* What is not wanted any more makes room before anything is mapped. */
static int queue_changes(struct batch *b, const struct region_image *old, const struct region_image *wanted,
			 struct err *err)
{
	for (size_t i = 0; i < old->n; i++) {
		const Snap__Region *r = &old->pieces[i].region;
		const struct image_piece *to = find_old(wanted, r);
		uint64_t end = to ? to->region.end : r->start;

		if (end < r->end && queue_unmap(b, end, r->end, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < wanted->n; i++) {
		const struct image_piece *was = find_old(old, &wanted->pieces[i].region);

		if (was && queue_grow(b, &was->region, &wanted->pieces[i].region, err) < 0)
			return -1;
	}
	return 0;
}

enum extent { NOTHING, SOME, ALL };

/* How much of the region is mapped, whatever is there. Neighbours that are mapped alike may be one to the kernel. */
static enum extent mapped_of(const struct proc_map *maps, size_t n, const Snap__Region *r)
{
	size_t first = COUNT_BEFORE(n, i, maps[i].end <= r->start);
	uint64_t end = r->start;

	if (first == n || maps[first].start >= r->end)
		return NOTHING;
	for (size_t i = first; i < n && maps[i].start <= end && end < r->end; i++)
		end = maps[i].end;
	return end >= r->end ? ALL : SOME;
}

/* Drops from wanted what cannot be mapped, or (afterwards) has not been. */
static int drop_unfit(struct ahead *a, struct region_image *wanted, bool afterwards, struct err *err)
{
	struct proc_map *maps = NULL;
	size_t n_maps = 0, kept = 0;

	if (proc_read_maps(a->donor.pid, false, &maps, &n_maps, err) < 0)
		return -1;
	for (size_t i = 0; i < wanted->n; i++) {
		bool there = afterwards || find_old(&a->image, &wanted->pieces[i].region);

		if (mapped_of(maps, n_maps, &wanted->pieces[i].region) == (there ? ALL : NOTHING))
			wanted->pieces[kept++] = wanted->pieces[i];
	}
	wanted->n = kept;
	proc_maps_free(maps, n_maps);
	return 0;
}

/* All that is left of wanted is mapped then. */
static int map_wanted(struct ahead *a, struct region_image *wanted, struct err *err)
{
	struct batch b;

	batch_begin(&b, &a->donor, &a->donor.threads[0]);
	if (queue_changes(&b, &a->image, wanted, err) < 0 || batch_run(&b, err) < 0 ||
	    drop_unfit(a, wanted, false, err) < 0)
		return -1;
	for (size_t i = 0; i < wanted->n; i++)
		if (!find_old(&a->image, &wanted->pieces[i].region) &&
		    queue_map(&b, &wanted->pieces[i].region, err) < 0)
			return -1;
	return batch_run(&b, err) < 0 ? -1 : drop_unfit(a, wanted, true, err);
}

/* ---- content ------------------------------------------------------------------------------- */

static int drop_pages(void *ctx, uint64_t start, uint64_t size, struct err *err)
{
	return batch_call(ctx, BATCH_MUST, err, SYS_madvise, ARGS(start, size, MADV_DONTNEED),
			  "drop pages at %#" PRIx64, start);
}

static int list_piece(struct page_list *list, const struct region_image *old, const struct image_piece *piece,
		      struct err *err)
{
	const struct image_piece *was = find_old(old, &piece->region);
	const Snap__Region *r = &piece->region;
	uint64_t end = r->start;

	if (was) {
		end = was->region.end < r->end ? was->region.end : r->end;
		if (page_list_changed(list, r, piece->root, was->root, r->start, end, err) < 0)
			return -1;
	}
	return end == r->end ? 0 : page_list_fresh(list, r, piece->root, end, err);
}

/* Maps what is wanted, drops what must not be there, and lists what is to be written. */
static int prepare(struct ahead *a, struct store *store, struct region_image *wanted, struct fill_pieces *pieces,
		   struct err *err)
{
	struct batch b;
	struct page_list list = {.readers.store = store, .pieces = pieces, .drop = drop_pages, .ctx = &b};
	int rc = 0;

	if (map_wanted(a, wanted, err) < 0)
		return -1;
	batch_begin(&b, &a->donor, &a->donor.threads[0]);
	for (size_t i = 0; i < wanted->n && rc == 0; i++)
		rc = list_piece(&list, &a->image, &wanted->pieces[i], err);
	readers_close(&list.readers);
	return rc < 0 ? -1 : batch_run(&b, err);
}

/* ---- all of it ----------------------------------------------------------------------------- */

/* Where every page that may be written is counted beforehand, forks of all that memory may fail. */
static int check_overcommit(struct err *err)
{
	cleanup_free char *text = NULL;
	struct err ignored;

	if (read_text(AT_FDCWD, "/proc/sys/vm/overcommit_memory", &text, NULL, &ignored) == 0 && text[0] == '2')
		return err_set(err, ERR_UNSUPPORTED, "memory may not be overcommitted (vm.overcommit_memory is 2)");
	return 0;
}

static int bring_up(struct ahead *a, struct store *store, const Snap__Snapshot *model, struct err *err)
{
	struct region_image wanted = {0};
	struct fill_pieces pieces = {0};
	int rc = -1;

	if (list_wanted(&wanted, model, err) == 0 && stop_donor(a, model, err) == 0 &&
	    prepare(a, store, &wanted, &pieces, err) == 0 && let_donor_wait(a, err) == 0)
		rc = fill_process(store, a->donor.pid, &pieces, err);
	fill_pieces_clear(&pieces);
	free(a->image.pieces);
	a->image = wanted;
	return rc;
}

static int update(struct ahead *a, const struct recovery_host *host, struct store *store, const char *job,
		  uint64_t seq, const Snap__Snapshot *model, struct err *err)
{
	struct store_session *hold;

	if (model->n_processes > PROCESSES_MOST)
		return err_set(err, ERR_UNSUPPORTED, "the job has more than %d processes", PROCESSES_MOST);
	if (!a->donor.pid && (check_overcommit(err) < 0 || make_donor(a, host, err) < 0))
		return -1;
	if (session_begin(&hold, store, job, seq, CODEC_NONE, err) < 0)
		return -1;
	/* The last one is compared with. */
	if (bring_up(a, store, model, err) < 0) {
		session_abort(hold);
		return -1;
	}
	session_abort(a->hold);
	a->hold = hold;
	return 0;
}

int ahead_update(struct ahead **ahead, const struct recovery_host *host, struct store *store, const char *job,
		 uint64_t seq, const Snap__Snapshot *model, struct err *err)
{
	if (!*ahead && !(*ahead = calloc(1, sizeof(**ahead))))
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (update(*ahead, host, store, job, seq, model, err) == 0)
		return 0;
	ahead_free(*ahead);
	*ahead = NULL;
	return err_wrap(err, "memory put up ahead");
}

bool ahead_pays(const struct ahead *a, const Snap__Snapshot *model)
{
	if (!a || a->image.n == 0 || model->n_processes > PROCESSES_MOST || !lives(a))
		return false;
	for (size_t i = 0; i < model->n_processes; i++)
		for (size_t k = 0; k < model->processes[i]->n_threads; k++)
			if (model->processes[i]->pid == a->model.pid ||
			    model->processes[i]->threads[k]->tid == a->model.pid)
				return false;
	return true;
}

uint64_t ahead_size(const struct ahead *a)
{
	uint64_t size = 0;

	for (size_t i = 0; a && i < a->image.n; i++)
		size += a->image.pieces[i].region.end - a->image.pieces[i].region.start;
	return size;
}

void ahead_free(struct ahead *a)
{
	if (!a)
		return;
	if (a->donor.n_threads > 0) /* traced by us: something has failed */
		stub_kill(&a->donor);
	else if (a->donor.pid) {
		syscall(SYS_pidfd_send_signal, a->donor.pidfd, SIGKILL, NULL, 0);
		stub_forget(&a->donor);
	}
	free(a->image.pieces);
	session_abort(a->hold);
	free(a);
}

/* ---- births -------------------------------------------------------------------------------- */

/* It was born before the capsule's clocks were set. */
static int join_clocks(struct stub *donor, struct err *err)
{
	struct tracee *t = &donor->threads[0];
	struct batch b;
	long fd;

	batch_begin(&b, donor, t);
	if (batch_room(&b, 1, 64, err) < 0 ||
	    stub_call(donor, t, &fd, err, "open the clocks", SYS_openat,
		      ARGS((uint64_t)AT_FDCWD, batch_push_string(&b, "/proc/1/ns/time_for_children"), O_RDONLY)) < 0)
		return -1;
	if (fd < 0)
		return err_code(err, (int)-fd, "the capsule's clocks");
	if (stub_call(donor, t, NULL, err, "enter the clocks", SYS_setns, ARGS((uint64_t)fd, CLONE_NEWTIME)) < 0)
		return -1;
	return stub_call(donor, t, NULL, err, "close", SYS_close, ARGS((uint64_t)fd));
}

int donor_open(struct recovery *rec, struct ahead *a, struct err *err)
{
	struct stub *donor = &a->donor;

	rec->donor = donor; /* after a failure, too, this thread ends it */
	if (stop_donor(a, rec->model, err) < 0 || join_clocks(donor, err) < 0 || stub_prepare(donor, err) < 0)
		return err_wrap(err, "memory put up ahead");
	rec->executor = donor->remote.base;
	log_debug("recovery: processes are born with %" PRIu64 " MiB that were put up ahead", ahead_size(a) >> 20);
	return 0;
}

void donor_end(struct recovery *rec)
{
	if (rec->donor)
		stub_kill(rec->donor);
	rec->donor = NULL;
}
