#include "checkpointer/tracked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checkpointer/approach.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

struct tracked *tracked_find(struct tracked_set *set, pid_t pid, uint64_t start_time)
{
	for (size_t i = 0; i < set->n; i++)
		if (set->list[i].pid == pid && set->list[i].start_time == start_time)
			return &set->list[i];
	return NULL;
}

struct tracked *tracked_add(struct tracked_set *set, pid_t pid, uint64_t start_time, pid_t vpid,
			    struct err *err)
{
	struct tracked *more = reallocarray(set->list, set->n + 1, sizeof(*more));

	if (!more) {
		err_sys(err, "process table");
		return NULL;
	}
	set->list = more;
	memset(&more[set->n], 0, sizeof(*more));
	more[set->n].pid = pid;
	more[set->n].start_time = start_time;
	more[set->n].vpid = vpid;
	return &more[set->n++];
}

static void end_round(struct tracked *t)
{
	page_table_free(t->table);
	t->table = NULL;
	scan_result_free(&t->now);
	scan_result_free(&t->precopied);
	t->alive = false;
}

static void clear_tracked(struct tracked *t)
{
	end_round(t);
	scan_result_free(&t->populated);
	scan_result_free(&t->owed);
	tracker_free(t->tracker);
}

void tracked_set_free(struct tracked_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		clear_tracked(&set->list[i]);
	free(set->list);
	memset(set, 0, sizeof(*set));
}

static int append(struct scan_result *to, const struct scan_result *from, struct err *err)
{
	for (size_t i = 0; i < from->n; i++)
		if (scan_result_add(to, &from->ranges[i], err) < 0)
			return -1;
	return 0;
}

static int append_written(struct scan_result *to, const struct scan_result *from, struct err *err)
{
	for (size_t i = 0; i < from->n; i++)
		if (from->ranges[i].written && scan_result_add(to, &from->ranges[i], err) < 0)
			return -1;
	return 0;
}

/* Nothing was published: what was found to be written is written still. Where that comes to more
 * than there is, by attempts that keep failing, all is looked at instead. */
static void owe(struct tracked *t)
{
	uint64_t there = scan_result_pages(t->now.n ? &t->now : &t->populated);
	struct err err;

	if (append_written(&t->owed, &t->precopied, &err) < 0 ||
	    append_written(&t->owed, &t->now, &err) < 0 || scan_result_pages(&t->owed) > there)
		t->distrust = true;
	if (t->distrust)
		scan_result_free(&t->owed);
}

void tracked_set_done(struct tracked_set *set, bool published)
{
	for (size_t i = 0; i < set->n;) {
		struct tracked *t = &set->list[i];

		if (published && !t->alive) {
			clear_tracked(t);
			memmove(t, t + 1, (set->n - i - 1) * sizeof(*t));
			set->n--;
			continue;
		}
		if (published) {
			scan_result_free(&t->populated);
			t->populated = t->now;
			memset(&t->now, 0, sizeof(t->now));
			t->known = true;
			t->distrust = false;
			scan_result_free(&t->owed);
		} else {
			owe(t);
		}
		end_round(t);
		i++;
	}
}

/* ---- scanning ------------------------------------------------------------------------------ */

static void distrust_all(struct scan_result *r, size_t from)
{
	for (size_t i = from; i < r->n; i++)
		r->ranges[i].written = true;
}

static bool holds_private_pages(Snap__Region__Kind kind)
{
	return kind == SNAP__REGION__KIND__ANONYMOUS || kind == SNAP__REGION__KIND__FILE_PRIVATE ||
	       kind == SNAP__REGION__KIND__HUGETLB;
}

/* Neighbours that are scanned in one go: calls are dear where mappings are many and small. If one of
 * them is new, all count as written, so they must not be big. */
#define SPAN_MOST (16ull << 20)

struct span {
	uint64_t start, end;
	unsigned how;
};

/* Whether a span can go on with the mapping [start, end). */
static bool span_takes(const struct span *s, uint64_t start, uint64_t end, unsigned how)
{
	return s->end == start && s->how == how && end - s->start <= SPAN_MOST;
}

/* The mappings from *i on that are scanned together; *i: the first behind them. */
static struct span next_span(const struct map_list *list, size_t *i, unsigned how)
{
	struct span s = {0};

	for (; *i < list->n; ++*i) {
		const struct proc_map *m = &list->maps[*i];
		unsigned this = m->inode ? how | SCAN_FILE : how;

		if (m->shared || strncmp(m->name, "[v", 2) == 0)
			continue;
		if (s.end && !span_takes(&s, m->start, m->end, this))
			break;
		if (!s.end)
			s = (struct span){.start = m->start, .how = this};
		s.end = m->end;
	}
	return s;
}

/* All private mappings there are now, by /proc/PID/maps. */
static int scan_maps(struct tracked *t, unsigned how, struct scan_result *ret, struct err *err)
{
	struct map_list list;
	int result = 0;

	if (proc_read_maps(t->pid, false, &list.maps, &list.n, err) < 0)
		return -1;
	for (size_t i = 0; result == 0 && i < list.n;) {
		struct span s = next_span(&list, &i, how);

		if (s.end)
			result = tracker_scan(t->tracker, s.start, s.end, s.how, ret, err);
	}
	proc_maps_free(list.maps, list.n);
	return result;
}

static int append_owed(const struct tracked *t, struct scan_result *ret, struct err *err)
{
	for (size_t i = 0; i < t->owed.n; i++) {
		struct scan_range r = t->owed.ranges[i];

		r.written = true;
		r.zero = false; /* it was, at another time */
		if (scan_result_add(ret, &r, err) < 0)
			return -1;
	}
	return 0;
}

/* What there is to read in this round. The tracker has been re-armed for it. */
static int next_round(struct tracked *t, struct scan_result *ret, struct err *err)
{
	if (scan_maps(t, t->distrust ? SCAN_ARM : SCAN_ARM | SCAN_WRITTEN, ret, err) < 0)
		return -1;
	if (t->distrust)
		distrust_all(ret, 0);
	t->distrust = false;
	if (append_owed(t, ret, err) < 0)
		return -1;
	scan_result_free(&t->owed);
	return 0;
}

/* A smaller one is copied aside, into fresh memory if need be. So is one with copies waiting: what is stored at once
 * has to stay behind those, and what they have of the same pages would be stored in vain. */
#define BIG_ROUND (64ull << 20)

struct through {
	struct tracked *tracked;
	struct scan_result *round;
	struct page_copies *copies;
	uint64_t *candidates;
};

static int copy_big(void *arg, struct err *err)
{
	struct through *t = arg;

	return tracked_copy_big(t->tracked, t->round, t->copies, t->candidates, err);
}

enum capture_mode tracked_copy_mode(const struct page_copies *copies, uint64_t size, uint64_t last)
{
	bool gives_way = copies->yielding.nice || copies->yielding.rate;

	return !gives_way && size <= last / 2 ? CAPTURE_PRESSED : CAPTURE_RAW;
}

/* The round before found so many bytes. */
static int copy_round(struct through *t, uint64_t last, struct err *err)
{
	const struct page_owner owner = tracked_pages(t->tracked);
	uint64_t size = pages_capture_size(t->round);

	if (size > page_copies_left(t->copies) && page_copies_compact(t->copies, err) < 0)
		return -1;
	if (size > page_copies_left(t->copies) ||
	    (t->copies->n == 0 && size > BIG_ROUND && size > t->copies->ready))
		return yield_run(&t->copies->yielding, copy_big, t, err);
	return pages_capture(&owner, t->round, t->copies, tracked_copy_mode(t->copies, size, last), t->candidates, err);
}

int64_t tracked_precopy(struct tracked *t, struct page_copies *copies, uint64_t last, uint64_t *candidates,
			struct err *err)
{
	struct scan_result round = {0};
	uint64_t before = *candidates;
	struct through through = {t, &round, copies, candidates};
	int result = next_round(t, &round, err);

	if (result == 0)
		result = append(&t->precopied, &round, err);
	if (result == 0)
		result = copy_round(&through, last, err);
	scan_result_free(&round);
	/* Whatever this round has re-armed without storing it must be looked at again. */
	if (result < 0)
		t->distrust = true;
	return result < 0 ? -1 : (int64_t)(*candidates - before);
}

static int add_guard(Snap__Process *m, uint64_t start, uint64_t end, struct err *err)
{
	uint64_t *more = reallocarray(m->guards, m->n_guards + 2, sizeof(*more));

	if (!more)
		return err_sys(err, "guard regions");
	m->guards = more;
	more[m->n_guards++] = start;
	more[m->n_guards++] = end;
	return 0;
}

/* The guard regions within the regions [r, to), among the ranges from index `at` on; both ascend. */
static int note_guards(Snap__Process *m, size_t r, size_t to, const struct scan_result *scan, size_t at,
		       struct err *err)
{
	while (r < to && at < scan->n) {
		const struct scan_range *s = &scan->ranges[at];
		const Snap__Region *region = m->regions[r];
		uint64_t start = s->start > region->start ? s->start : region->start;
		uint64_t end = s->end < region->end ? s->end : region->end;

		if (s->guard && start < end && add_guard(m, start, end, err) < 0)
			return -1;
		if (s->end <= region->end)
			at++;
		else
			r++;
	}
	return 0;
}

/* Guard regions lie in page tables, which those of shared memory are not looked at for anything else. */
static int note_shared_guards(struct tracked *t, Snap__Process *m, size_t i, struct err *err)
{
	const Snap__Region *r = m->regions[i];
	struct scan_result scan = {0};
	int result;

	if (r->kind != SNAP__REGION__KIND__FILE_SHARED && r->kind != SNAP__REGION__KIND__SHARED_MEMORY &&
	    r->kind != SNAP__REGION__KIND__SYSV_SHM)
		return 0;
	result = scan_populated(t->pid, r->start, r->end, &scan, err);
	if (result == 0)
		result = note_guards(m, i, i + 1, &scan, 0, err);
	scan_result_free(&scan);
	return result;
}

/* Its pages may vanish at any time (MAP_DROPPABLE), and so they do: it is where random number generators keep their
 * state, of which no second one may come to be. */
static bool is_droppable(const Snap__Region *r)
{
	return r->advice & ADVICE_DROPPABLE;
}

static unsigned how_to_scan(const Snap__Region *r)
{
	/* A removed file's pages count as the process's own. */
	return SCAN_ARM | SCAN_STILL | (r->kind == SNAP__REGION__KIND__ANONYMOUS ? 0 : SCAN_FILE);
}

/* The regions from *i on that are scanned together, all of one kind; *i: the first behind them. */
static struct span next_regions(const Snap__Process *m, const bool *read_all, size_t *i)
{
	const Snap__Region *first = m->regions[*i];
	struct span s = {first->start, first->end, how_to_scan(first)};
	bool alone = read_all[*i] || first->kind != SNAP__REGION__KIND__ANONYMOUS || is_droppable(first);

	for (++*i; !alone && *i < m->n_regions; ++*i) {
		const Snap__Region *r = m->regions[*i];

		if (r->kind != first->kind || read_all[*i] || is_droppable(r) || !span_takes(&s, r->start, r->end, s.how))
			break;
		s.end = r->end;
	}
	return s;
}

static int scan_span(struct tracked *t, const struct span *s, struct err *err)
{
	size_t from = t->now.n;

	if (tracker_scan(t->tracker, s->start, s->end, s->how, &t->now, err) < 0)
		return -1;
	/* Runs may have merged with the last one of the region before. */
	if (t->distrust)
		distrust_all(&t->now, from ? from - 1 : 0);
	return 0;
}

/* Regions with indices [from, to), which span s covers. */
static int scan_regions(struct tracked *t, const struct collected_process *p, size_t from, size_t to,
			const struct span *s, struct err *err)
{
	const struct scan_range whole = {.start = s->start, .end = s->end, .written = true};
	size_t seen = t->now.n ? t->now.n - 1 : 0;

	if (!holds_private_pages(p->model->regions[from]->kind))
		return note_shared_guards(t, p->model, from, err);
	if (is_droppable(p->model->regions[from]))
		return 0;
	if (p->read_all[from])
		return scan_result_add(&t->now, &whole, err);
	if (scan_span(t, s, err) < 0)
		return -1;
	return note_guards(p->model, from, to, &t->now, seen, err);
}

static int scan_all(struct tracked *t, const struct collected_process *p, struct err *err)
{
	Snap__Process *m = p->model;

	scan_result_free(&t->now);
	m->n_guards = 0;
	for (size_t i = 0; i < m->n_regions;) {
		size_t from = i;
		struct span s = next_regions(m, p->read_all, &i);

		if (scan_regions(t, p, from, i, &s, err) < 0)
			return -1;
	}
	return tracker_rearm(t->tracker, err);
}

static int begin_tracker(struct tracked *t, struct remote *remote, struct tracee *leader,
			 enum tracker_kind kind, struct err *err)
{
	tracker_free(t->tracker);
	t->tracker = NULL;
	if (tracker_new(&t->tracker, kind, t->pid, remote, leader, err) == 0)
		return 0;
	if (err->kind == ERR_GONE || kind == TRACKER_NONE)
		return -1;
	log_debug("process %d is not tracked: %s", t->vpid, err->msg);
	return tracker_new(&t->tracker, TRACKER_NONE, t->pid, remote, leader, err);
}

static int arm_approached(struct tracked *t, struct frozen_process *p, enum tracker_kind kind,
			  struct err *err)
{
	struct tracee *leader = &p->threads[0]->tracee;
	struct remote remote;
	struct err end_err;
	int result;

	if (remote_begin(&remote, leader, 0, REMOTE_ROOM, err) < 0)
		return -1;
	result = begin_tracker(t, &remote, leader, kind, err);
	if (remote_end(&remote, leader, &end_err) < 0 && result == 0) {
		*err = end_err;
		result = -1;
	}
	return result;
}

int tracked_arm(struct tracked *t, struct frozen_process *p, enum tracker_kind kind,
		const struct tree_root *root, struct err *err)
{
	struct namespaces namespaces;
	struct err end_err;
	int result;

	namespaces_read(&namespaces, root);
	if (approach_begin(p, &namespaces, err) < 0)
		return -1;
	result = arm_approached(t, p, kind, err);
	if (approach_end(p, &end_err) < 0 && result == 0) {
		*err = end_err;
		result = -1;
	}
	return result;
}

int tracked_scan_frozen(struct tracked *t, struct collected_process *p, enum tracker_kind kind,
			struct err *err)
{
	struct tracee *leader = &p->frozen->threads[0]->tracee;

	if (!t->tracker && begin_tracker(t, &p->remote, leader, kind, err) < 0)
		return -1;
	/* What is owed and was read by no round must be read now, written since or not. */
	if (t->owed.n > 0)
		t->distrust = true;
	if (scan_all(t, p, err) < 0) {
		/* ESRCH from an address space that has ended: the process has executed a program
		 * since. */
		if (err->sys_errno != ESRCH ||
		    begin_tracker(t, &p->remote, leader, kind, err) < 0 ||
		    scan_all(t, p, err) < 0) {
			t->distrust = true; /* some of it may have been re-armed */
			return -1;
		}
	}
	return 0;
}

int tracked_copy_frozen(struct tracked *t, struct page_copies *copies, uint64_t *candidates,
			struct err *err)
{
	const struct page_owner owner = tracked_pages(t);

	return pages_capture(&owner, &t->now, copies, CAPTURE_FROZEN, candidates, err);
}
