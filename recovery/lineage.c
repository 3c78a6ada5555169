#include "recovery/lineage.h"

#include <linux/sched.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"

#define ANY_SESSION 0
#define NOBODY	    (SIZE_MAX - 1)
/* A round each: far more than any job has, few enough for a hostile file. */
#define MAX_SCATTERED 64

struct numbered {
	int32_t pid;
	size_t index;
};

struct builder {
	const Snap__Snapshot *model;
	size_t n; /* processes of the model */
	struct lineage *l;
	struct numbered *by_pid; /* ascending */
	size_t *parent;		 /* index, LINEAGE_INIT */
	/* The session it must be born into. Of a session's leader: the one in which its eldest
	 * children still are, ANY_SESSION where it has none such. */
	int32_t *born_in;
	int32_t *ids; /* every number in use, ascending */
	size_t n_ids;
	int32_t next_id; /* nothing below is free */
	/* Sessions of dead leaders with orphans in places of which none is above the other: they
	 * were founded above both. */
	int32_t *scattered;
	size_t n_scattered;
};

const Snap__Process *lineage_member(const struct lineage *l, const Snap__Snapshot *model, size_t i)
{
	return i < l->n_model ? model->processes[i] : l->helpers[i - l->n_model];
}

static const Snap__Process *member(const struct builder *b, size_t i)
{
	return lineage_member(b->l, b->model, i);
}

static bool leads_session(const Snap__Process *p)
{
	return p->sid == p->pid;
}

/* ---- numbers ------------------------------------------------------------------------------- */

static int compare_numbered(const void *a, const void *b)
{
	const struct numbered *x = a, *y = b;

	return (x->pid > y->pid) - (x->pid < y->pid);
}

static int compare_ids(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

static size_t find(const struct builder *b, int32_t pid)
{
	const struct numbered key = {pid, 0};
	const struct numbered *found =
		bsearch(&key, b->by_pid, b->n, sizeof(key), compare_numbered);

	return found ? found->index : NOBODY;
}

static bool is_used(const struct builder *b, int32_t id)
{
	return bsearch(&id, b->ids, b->n_ids, sizeof(id), compare_ids);
}

static int list_ids(struct builder *b, struct err *err)
{
	size_t room = b->n * 4, n = 0;

	for (size_t i = 0; i < b->n; i++)
		room += b->model->processes[i]->n_threads;
	b->ids = calloc(room + 1, sizeof(*b->ids));
	b->by_pid = calloc(b->n + 1, sizeof(*b->by_pid));
	b->parent = calloc(b->n + 1, sizeof(*b->parent));
	b->born_in = calloc(b->n + 1, sizeof(*b->born_in));
	b->l->births = calloc(b->n + 1, sizeof(*b->l->births));
	if (!b->ids || !b->by_pid || !b->parent || !b->born_in || !b->l->births)
		return err_set(err, ERR_SYSTEM, "out of memory");
	b->l->room = b->n + 1;
	for (size_t i = 0; i < b->n; i++) {
		const Snap__Process *p = b->model->processes[i];

		b->by_pid[i] = (struct numbered){p->pid, i};
		b->ids[n++] = p->pid;
		b->ids[n++] = p->pgid;
		b->ids[n++] = p->sid;
		for (size_t t = 0; t < p->n_threads; t++)
			b->ids[n++] = p->threads[t]->tid;
	}
	b->n_ids = n;
	b->next_id = 2;
	qsort(b->ids, n, sizeof(*b->ids), compare_ids);
	qsort(b->by_pid, b->n, sizeof(*b->by_pid), compare_numbered);
	return 0;
}

static int32_t free_id(struct builder *b)
{
	while (is_used(b, b->next_id))
		b->next_id++;
	return b->next_id++;
}

static int contradiction(struct err *err, const char *what, const Snap__Process *p)
{
	return err_set(err, ERR_CORRUPT, "the snapshot contradicts itself: %s of process %d", what,
		       p->pid);
}

static int check_member(const struct builder *b, size_t i, struct err *err)
{
	const Snap__Process *p = b->model->processes[i];
	size_t parent = p->ppid == 1 ? LINEAGE_INIT : find(b, p->ppid);

	if (p->pid <= 1 || find(b, p->pid) != i)
		return contradiction(err, "pid", p);
	if (parent == NOBODY || (parent != LINEAGE_INIT && parent >= i) ||
	    (parent != LINEAGE_INIT && b->model->processes[parent]->zombie))
		return contradiction(err, "parent", p);
	if (p->sid < 0 || p->pgid < 0 || (leads_session(p) && p->pgid != p->pid))
		return contradiction(err, "session or group", p);
	b->parent[i] = parent;
	return 0;
}

/* ---- births -------------------------------------------------------------------------------- */

/* Whether `above` is `below` or one of its ancestors. */
static bool is_above(const struct builder *b, size_t above, size_t below)
{
	while (below != LINEAGE_INIT && below != above)
		below = b->parent[below];
	return below == above;
}

/* The leader of a session, if it lives. */
static size_t living_leader(const struct builder *b, int32_t session)
{
	size_t found = find(b, session);

	return found != NOBODY && leads_session(b->model->processes[found]) ? found : NOBODY;
}

static bool is_scattered(const struct builder *b, int32_t session)
{
	for (size_t i = 0; i < b->n_scattered; i++) {
		if (b->scattered[i] == session)
			return true;
	}
	return false;
}

/*
 * Whether a child in another session than its parent, a session's leader, tells what the parent was
 * born into: it may be an orphan that has come to it from a session founded below it.
 */
static bool tells_birth(const struct builder *b, size_t parent, int32_t session, int32_t above)
{
	size_t leader = living_leader(b, session);

	if (session == above || session == 1)
		return true;
	return leader == NOBODY ? is_scattered(b, session) : !is_above(b, parent, leader);
}

/* Children come after their parents, so that from the last to the first each is complete. */
static void find_sessions_of_birth(struct builder *b)
{
	memset(b->born_in, 0, b->n * sizeof(*b->born_in));
	for (size_t i = b->n; i-- > 0;) {
		const Snap__Process *p = b->model->processes[i];
		size_t up = b->parent[i];
		const Snap__Process *parent = up == LINEAGE_INIT ? NULL : b->model->processes[up];
		int32_t above;

		if (!leads_session(p))
			b->born_in[i] = p->sid;
		if (!parent || !leads_session(parent) || b->born_in[i] == ANY_SESSION ||
		    b->born_in[i] == parent->pid)
			continue;
		above = b->parent[up] == LINEAGE_INIT ? 1 : b->model->processes[b->parent[up]]->sid;
		if (tells_birth(b, up, b->born_in[i], above) &&
		    (b->born_in[up] == ANY_SESSION || b->born_in[i] == above))
			b->born_in[up] = b->born_in[i];
	}
}

/* Whether `by` can have a child in that session. Init is in session 1; 0 is one outside. */
static bool can_bear(const struct builder *b, size_t by, int32_t session, bool *ret_early)
{
	const Snap__Process *p;

	*ret_early = false;
	if (session == ANY_SESSION)
		return true;
	if (by == LINEAGE_INIT)
		return session == 1;
	p = member(b, by);
	if (p->sid == session)
		return true;
	*ret_early = leads_session(p) && by < b->n && b->born_in[by] == session;
	return *ret_early;
}

static int add_helper(struct builder *b, int32_t pid, int32_t sid, const struct birth *birth,
		      size_t *ret, struct err *err)
{
	struct lineage *l = b->l;
	size_t index = l->n_model + l->n_helpers;
	struct birth *births;
	Snap__Process **helpers, *p;

	if (index == l->room) {
		births = reallocarray(l->births, l->room * 2, sizeof(*births));
		if (!births)
			return err_set(err, ERR_SYSTEM, "out of memory");
		l->births = births;
		l->room *= 2;
	}
	helpers = reallocarray(l->helpers, l->n_helpers + 1, sizeof(*helpers));
	if (!helpers)
		return err_set(err, ERR_SYSTEM, "out of memory");
	l->helpers = helpers;
	p = malloc(sizeof(*p));
	if (!p)
		return err_set(err, ERR_SYSTEM, "out of memory");
	snap__process__init(p);
	p->pid = pid;
	p->sid = sid;
	p->pgid = sid;
	helpers[l->n_helpers++] = p;
	l->births[index] = *birth;
	*ret = index;
	return 0;
}

static size_t find_helper(const struct builder *b, int32_t pid)
{
	for (size_t i = 0; i < b->l->n_helpers; i++) {
		if (b->l->helpers[i]->pid == pid)
			return b->n + i;
	}
	return NOBODY;
}

static bool is_orphan(const struct builder *b, size_t i)
{
	bool early;

	return !can_bear(b, b->parent[i], b->born_in[i], &early);
}

static int note_scattered(struct builder *b, int32_t session, struct err *err)
{
	int32_t *more = reallocarray(b->scattered, b->n_scattered + 1, sizeof(*more));

	if (!more)
		return err_set(err, ERR_SYSTEM, "out of memory");
	b->scattered = more;
	more[b->n_scattered++] = session;
	return 0;
}

/* Where a session whose leader is dead is founded again: below all who take in orphans of it. */
static int place_dead_session(struct builder *b, size_t orphan, struct err *err)
{
	const size_t heir = b->parent[orphan];
	const struct birth birth = {.by = heir, .parent = LINEAGE_INIT, .heir = heir};
	int32_t session = b->born_in[orphan];
	size_t helper = find_helper(b, session), other;

	if (helper == NOBODY)
		return add_helper(b, session, session, &birth, &helper, err);
	other = b->l->births[helper].heir;
	if (heir == LINEAGE_INIT || (other != LINEAGE_INIT && is_above(b, heir, other)))
		return 0;
	if (other != LINEAGE_INIT && !is_above(b, other, heir))
		return is_scattered(b, session) ? 0 : note_scattered(b, session, err);
	b->l->births[helper] = birth;
	return 0;
}

static int found_dead_sessions(struct builder *b, struct err *err)
{
	for (size_t i = 0; i < b->n; i++) {
		if (!is_orphan(b, i) || living_leader(b, b->born_in[i]) != NOBODY)
			continue;
		if (find(b, b->born_in[i]) != NOBODY)
			return contradiction(err, "session", b->model->processes[i]);
		if (place_dead_session(b, i, err) < 0)
			return -1;
	}
	return 0;
}

static void drop_helpers(struct lineage *l)
{
	for (size_t i = 0; i < l->n_helpers; i++)
		snap__process__free_unpacked(l->helpers[i], NULL);
	l->n_helpers = 0;
}

/* Each round learns of another session that it was founded further up. */
static int find_sessions(struct builder *b, struct err *err)
{
	size_t known;

	do {
		known = b->n_scattered;
		drop_helpers(b->l);
		find_sessions_of_birth(b);
		if (found_dead_sessions(b, err) < 0)
			return -1;
	} while (b->n_scattered > known && b->n_scattered < MAX_SCATTERED);
	return 0;
}

/* One that forks in the name of `by` and leaves its children to heir. */
static int go_between(struct builder *b, size_t by, size_t heir, int32_t session, size_t *ret,
		      struct err *err)
{
	const struct birth birth = {.by = by, .heir = heir};

	for (size_t i = 0; i < b->l->n_helpers; i++) {
		const struct birth *other = &b->l->births[b->n + i];

		if (other->by == by && other->heir == heir && b->l->helpers[i]->sid == session &&
		    b->l->helpers[i]->pid != session) {
			*ret = b->n + i;
			return 0;
		}
	}
	return add_helper(b, free_id(b), session, &birth, ret, err);
}

static int bear_orphan(struct builder *b, size_t i, size_t *ret_by, struct err *err)
{
	const Snap__Process *p = b->model->processes[i];
	int32_t session = b->born_in[i];
	size_t heir = b->parent[i], leader = living_leader(b, session), from = leader;

	if (leader == NOBODY) {
		leader = find_helper(b, session);
		from = b->l->births[leader].by;
		if (b->l->births[leader].heir == heir) {
			*ret_by = leader;
			return 0;
		}
	}
	if (heir != LINEAGE_INIT && !is_above(b, heir, from))
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d is in session %d, which its parent %d never was in",
			       p->pid, session, p->ppid);
	return go_between(b, leader, heir, session, ret_by, err);
}

static int arrange_births(struct builder *b, struct err *err)
{
	for (size_t i = 0; i < b->n; i++) {
		struct birth birth = {
			.by = b->parent[i], .parent = b->parent[i], .heir = LINEAGE_INIT};

		if (!can_bear(b, birth.by, b->born_in[i], &birth.early) &&
		    bear_orphan(b, i, &birth.by, err) < 0)
			return -1;
		b->l->births[i] = birth;
	}
	return 0;
}

/* ---- what is kept in common ---------------------------------------------------------------- */

static const struct {
	size_t field;
	uint64_t flag;
	const char *what;
} commons[] = {
	{offsetof(Snap__Process, shares_memory), CLONE_VM, "memory"},
	{offsetof(Snap__Process, shares_files), CLONE_FILES, "descriptors"},
	{offsetof(Snap__Process, shares_fs), CLONE_FS, "working directory"},
	{offsetof(Snap__Process, shares_handlers), CLONE_SIGHAND, "signal handlers"},
};
#define N_COMMONS (sizeof(commons) / sizeof(*commons))

/* Whose it is: the pid of the first that has it. */
static int32_t owner(const Snap__Process *p, size_t what)
{
	int32_t of;

	memcpy(&of, (const char *)p + commons[what].field, sizeof(of));
	return of ? of : p->pid;
}

static int check_commons(const struct builder *b, size_t i, struct err *err)
{
	const Snap__Process *p = b->model->processes[i];

	for (size_t w = 0; w < N_COMMONS; w++) {
		size_t of = find(b, owner(p, w));

		if (of == i)
			continue;
		if (of == NOBODY || of > i || b->model->processes[of]->zombie || p->zombie ||
		    owner(b->model->processes[of], w) != b->model->processes[of]->pid)
			return contradiction(err, "what is shared", p);
	}
	if (p->shares_handlers && !p->shares_memory)
		return contradiction(err, "what is shared", p);
	return 0;
}

static bool shares_any(const Snap__Process *p)
{
	return p->shares_memory || p->shares_files || p->shares_fs || p->shares_handlers;
}

/* What a process can have in common with the one that makes it; -1: not all that it must. */
static int common_with(const struct builder *b, size_t i, size_t by, uint64_t *ret,
		       const char **what)
{
	const Snap__Process *p = b->model->processes[i];
	uint64_t share = 0;

	for (size_t w = 0; w < N_COMMONS; w++) {
		bool must = owner(p, w) != p->pid;
		bool has = by < b->n && owner(b->model->processes[by], w) == owner(p, w);

		if (must && !has) {
			*what = commons[w].what;
			return -1;
		}
		share |= has ? commons[w].flag : 0;
	}
	*ret = share;
	return 0;
}

/* One of its parent's other children that has it all, and is in the same session. */
static size_t find_sharing_sibling(const struct builder *b, size_t i, uint64_t *ret)
{
	const Snap__Process *p = b->model->processes[i];
	const char *what;

	for (size_t j = 0; j < i; j++) {
		const Snap__Process *q = b->model->processes[j];

		if (q->ppid == p->ppid && q->exit_signal == p->exit_signal && !q->zombie &&
		    !leads_session(q) && q->sid == b->born_in[i] &&
		    common_with(b, i, j, ret, &what) == 0)
			return j;
	}
	return NOBODY;
}

static int arrange_commons(struct builder *b, struct err *err)
{
	const char *what;

	for (size_t i = 0; i < b->n; i++) {
		struct birth *birth = &b->l->births[i];
		size_t sibling;

		if (check_commons(b, i, err) < 0)
			return -1;
		if (!shares_any(b->model->processes[i]) ||
		    common_with(b, i, birth->by, &birth->share, &what) == 0)
			continue;
		sibling = find_sharing_sibling(b, i, &birth->share);
		if (sibling == NOBODY)
			return err_set(
				err, ERR_UNSUPPORTED,
				"process %d shares its %s with a process that is neither its "
				"parent nor its parent's child",
				b->model->processes[i]->pid, what);
		birth->by = sibling;
		birth->sibling = true;
		birth->early = false;
	}
	return 0;
}

/* ---- groups -------------------------------------------------------------------------------- */

/* Everybody is born into the group that bears its session's number. */
static bool is_born_into_group(const Snap__Process *p)
{
	return p->pgid == p->sid || p->pgid == 0;
}

static int arrange_group(struct builder *b, size_t i, struct err *err)
{
	const Snap__Process *p = b->model->processes[i];
	size_t founder = find(b, p->pgid), helper;
	struct birth birth = b->l->births[i];

	if (is_born_into_group(p) || founder == i)
		return 0;
	if (p->pgid == 1)
		return contradiction(err, "group", p);
	if (founder == NOBODY)
		founder = find_helper(b, p->pgid);
	if (founder != NOBODY)
		return member(b, founder)->sid == p->sid ? 0 : contradiction(err, "group", p);
	birth.share = 0;
	birth.sibling = false;
	if (b->l->births[i].sibling)
		birth.by = b->l->births[birth.by].by;
	birth.heir = LINEAGE_INIT;
	if (add_helper(b, p->pgid, p->sid, &birth, &helper, err) < 0)
		return -1;
	b->l->helpers[helper - b->n]->pgid = p->pgid;
	return 0;
}

static int build(struct builder *b, struct err *err)
{
	if (list_ids(b, err) < 0)
		return -1;
	for (size_t i = 0; i < b->n; i++) {
		if (check_member(b, i, err) < 0)
			return -1;
	}
	if (find_sessions(b, err) < 0 || arrange_births(b, err) < 0 || arrange_commons(b, err) < 0)
		return -1;
	for (size_t i = 0; i < b->n; i++) {
		if (arrange_group(b, i, err) < 0)
			return -1;
	}
	return 0;
}

int lineage_make(struct lineage *ret, const Snap__Snapshot *model, struct err *err)
{
	struct builder b = {.model = model, .n = model->n_processes, .l = ret};
	int result;

	*ret = (struct lineage){.n_model = model->n_processes};
	result = build(&b, err);
	free(b.ids);
	free(b.by_pid);
	free(b.parent);
	free(b.born_in);
	free(b.scattered);
	if (result < 0)
		lineage_clear(ret);
	return result;
}

void lineage_clear(struct lineage *l)
{
	drop_helpers(l);
	free(l->helpers);
	free(l->births);
	*l = (struct lineage){0};
}
