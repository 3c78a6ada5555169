#include "recovery/plan.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"

static int add(struct plan *plan, enum plan_kind kind, size_t process, size_t object,
	       struct err *err)
{
	if (plan->n_steps == plan->room) {
		size_t room = plan->room ? plan->room * 2 : 64;
		struct plan_step *grown = realloc(plan->steps, room * sizeof(*grown));

		if (!grown)
			return err_set(err, ERR_SYSTEM, "out of memory");
		plan->steps = grown;
		plan->room = room;
	}
	plan->steps[plan->n_steps++] = (struct plan_step){kind, process, object};
	return 0;
}

static bool is_temporary(const Snap__File *file, bool leave_files)
{
	if (file->kind == SNAP__FILE__KIND__MEMFD ||
	    file->kind == SNAP__FILE__KIND__SHARED_ANONYMOUS)
		return true;
	if (file->kind != SNAP__FILE__KIND__REGULAR)
		return false;
	return file->deleted ||
	       (leave_files && (file->in_tree || file->policy == SNAP__FILE__POLICY__RESTORE));
}

bool plan_region_is_late(const Snap__Snapshot *model, const Snap__Region *region, bool leave_files)
{
	const Snap__File *file;

	if (region->file < 0)
		return false;
	file = model->files[region->file];
	return file->kind != SNAP__FILE__KIND__SYSV && !is_temporary(file, leave_files) && file->policy != SNAP__FILE__POLICY__IDENTITY &&
	       file->policy != SNAP__FILE__POLICY__INPUT;
}

bool plan_region_has_pages(const Snap__Region *region)
{
	return region->kind == SNAP__REGION__KIND__ANONYMOUS ||
	       region->kind == SNAP__REGION__KIND__FILE_PRIVATE ||
	       region->kind == SNAP__REGION__KIND__HUGETLB;
}

static bool has_late_regions(const Snap__Snapshot *model, const Snap__Process *p, bool leave_files)
{
	for (size_t i = 0; i < p->n_regions; i++) {
		if (plan_region_is_late(model, p->regions[i], leave_files))
			return true;
	}
	return false;
}

static bool is_mapped(const Snap__Snapshot *model, size_t file)
{
	for (size_t i = 0; i < model->n_processes; i++)
		for (size_t j = 0; j < model->processes[i]->n_regions; j++)
			if (model->processes[i]->regions[j]->file == (int32_t)file)
				return true;
	return false;
}

/* A trial opens no descriptors: of the files it takes what is mapped. */
static bool is_wanted(const Snap__Snapshot *model, size_t file, bool leave_files)
{
	return !leave_files || is_mapped(model, file);
}

/* Reads content, touches nothing. */
static int add_file_reads(struct plan *plan, const Snap__Snapshot *model, bool leave_files,
			  struct err *err)
{
	for (size_t i = 0; i < model->n_trees && !leave_files; i++) {
		if (add(plan, PLAN_VERIFY_TREE, 0, i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < model->n_files; i++) {
		const Snap__File *file = model->files[i];
		enum plan_kind kind;

		if (!is_wanted(model, i, leave_files))
			continue;
		if (is_temporary(file, leave_files))
			kind = PLAN_TEMPORARY_FILE;
		else if (file->kind != SNAP__FILE__KIND__REGULAR)
			continue;
		else if (file->policy == SNAP__FILE__POLICY__RESTORE)
			kind = PLAN_VERIFY_FILE;
		else if (file->policy == SNAP__FILE__POLICY__IDENTITY ||
			 file->policy == SNAP__FILE__POLICY__INPUT)
			kind = PLAN_IDENTIFY_FILE;
		else
			continue;
		if (add(plan, kind, 0, i, err) < 0)
			return -1;
	}
	return 0;
}

static int add_number(struct plan *plan, enum plan_kind kind, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		if (add(plan, kind, 0, i, err) < 0)
			return -1;
	}
	return 0;
}

/* Those without a name first: another may have it now. */
static int add_posix_queues(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	for (int unlinked = 1; unlinked >= 0; unlinked--) {
		for (size_t i = 0; i < model->n_posix_queues; i++) {
			if (model->posix_queues[i]->unlinked == unlinked &&
			    add(plan, PLAN_POSIX_QUEUE, 0, i, err) < 0)
				return -1;
		}
	}
	return 0;
}

/* Limits first: the objects may exceed those of a new namespace. */
static int add_ipc(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	if (add_number(plan, PLAN_IPC_LIMIT, model->n_ipc_limits, err) < 0 ||
	    add_number(plan, PLAN_SEGMENT, model->n_segments, err) < 0 ||
	    add_number(plan, PLAN_SEMAPHORES, model->n_semaphores, err) < 0)
		return -1;
	return add_number(plan, PLAN_QUEUE, model->n_queues, err) < 0 ? -1
								      : add_posix_queues(plan, model, err);
}

static int add_file_writes(struct plan *plan, const Snap__Snapshot *model, bool leave_files,
			   struct err *err)
{
	for (size_t i = 0; i < model->n_trees && !leave_files; i++) {
		if (add(plan, PLAN_RESTORE_TREE, 0, i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < model->n_files && !leave_files; i++) {
		const Snap__File *file = model->files[i];

		if (file->kind != SNAP__FILE__KIND__REGULAR || is_temporary(file, leave_files))
			continue;
		if (file->policy == SNAP__FILE__POLICY__RESTORE &&
		    add(plan, PLAN_RESTORE_FILE, 0, i, err) < 0)
			return -1;
		if (file->policy == SNAP__FILE__POLICY__TRUNCATE &&
		    add(plan, PLAN_TRUNCATE_FILE, 0, i, err) < 0)
			return -1;
	}
	return 0;
}

/* A directory's mode may forbid to make its contents: it comes before them, and is finished after them. */
static int add_privates(struct plan *plan, const Snap__Snapshot *model, enum plan_kind kind,
			bool leave_files, struct err *err)
{
	size_t n = leave_files && kind == PLAN_FINISH_PRIVATE ? 0 : model->n_private_entries;

	for (size_t i = 0; i < n; i++) {
		if (add(plan, kind, 0, kind == PLAN_PRIVATE ? i : n - 1 - i, err) < 0)
			return -1;
	}
	return 0;
}

static int add_finishes(struct plan *plan, const Snap__Snapshot *model, bool leave_files,
			struct err *err)
{
	for (size_t i = 0; i < model->n_files; i++) {
		if (is_wanted(model, i, leave_files) && is_temporary(model->files[i], leave_files) &&
		    add(plan, PLAN_FINISH_FILE, 0, i, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- processes and their memory ------------------------------------------------------------ */

struct births {
	struct plan *plan;
	const Snap__Snapshot *model;
	bool *mapped; /* by process */
};

typedef bool plan_choice(const Snap__Process *p);

static bool lives(const Snap__Process *p)
{
	return !p->zombie;
}

bool plan_owns_memory(const Snap__Process *p)
{
	return lives(p) && !p->shares_memory;
}

static bool owns_files(const Snap__Process *p)
{
	return lives(p) && !p->shares_files;
}

static int add_memory(struct births *b, size_t process, struct err *err)
{
	if (b->mapped[process])
		return 0;
	b->mapped[process] = true;
	if (add(b->plan, PLAN_CLEAR, process, 0, err) < 0)
		return -1;
	return add(b->plan, PLAN_MAP, process, 0, err);
}

/* The memory that it is to inherit comes first. */
static int add_birth(struct births *b, size_t member, struct err *err)
{
	size_t source = b->plan->inheritance.sources[member];

	if (source != INHERIT_NOBODY && add_memory(b, source, err) < 0)
		return -1;
	return add(b->plan, PLAN_SPAWN, member, 0, err);
}

static bool has_fosters(const struct region_image *image)
{
	for (size_t i = 0; i < image->n; i++)
		if (image->pieces[i].foster)
			return true;
	return false;
}

static int add_act(void *ctx, enum lineage_act act, size_t member, struct err *err)
{
	static const enum plan_kind kinds[] = {
		[LINEAGE_SPAWN] = PLAN_SPAWN, [LINEAGE_SESSION] = PLAN_SESSION,
		[LINEAGE_FOUND] = PLAN_FOUND, [LINEAGE_JOIN] = PLAN_GROUP,
		[LINEAGE_END] = PLAN_END,
	};
	struct births *b = ctx;

	if (act == LINEAGE_SPAWN)
		return add_birth(b, member, err);
	return add(b->plan, kinds[act], member, 0, err);
}

static int add_rest_of_memory(struct births *b, struct err *err)
{
	size_t n = b->model->n_processes;

	for (size_t i = 0; i < n; i++) {
		if (plan_owns_memory(b->model->processes[i]) && add_memory(b, i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < n; i++) {
		if (has_fosters(&b->plan->inheritance.images[i]) &&
		    add(b->plan, PLAN_SHED, i, 0, err) < 0)
			return -1;
	}
	return 0;
}

static int add_processes(struct plan *plan, const Snap__Snapshot *model, bool leave_files,
			 struct err *err)
{
	size_t n = model->n_processes + plan->lineage.n_helpers;
	cleanup_free bool *mapped = calloc(n + 1, sizeof(*mapped));
	cleanup_free size_t *by = calloc(n + 1, sizeof(*by));
	struct births births = {.plan = plan, .model = model, .mapped = mapped};

	if (!mapped || !by)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		by[i] = plan->lineage.births[i].by;
	if (inheritance_make(&plan->inheritance, model, by, n, plan_owns_memory, leave_files, err) < 0 ||
	    lineage_walk(&plan->lineage, model, add_act, &births, err) < 0)
		return -1;
	return add_rest_of_memory(&births, err);
}

static int add_each(struct plan *plan, const Snap__Snapshot *model, enum plan_kind kind,
		    plan_choice *choose, struct err *err)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		if (choose(model->processes[i]) && add(plan, kind, i, 0, err) < 0)
			return -1;
	}
	return 0;
}

static bool has_attached(const Snap__Process *p)
{
	for (size_t i = 0; i < p->n_regions; i++) {
		if (p->regions[i]->kind == SNAP__REGION__KIND__SYSV_SHM)
			return true;
	}
	return false;
}

static bool has_undos(const Snap__Process *p)
{
	return lives(p) && p->n_undos > 0;
}

/* What processes have of IPC objects. Each change of a semaphore makes its maker the last to have changed
 * it: who was comes after all undos. */
static int add_ipc_users(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	if (add_each(plan, model, PLAN_ATTACH, has_attached, err) < 0 ||
	    add_number(plan, PLAN_FINISH_SEGMENT, model->n_segments, err) < 0 ||
	    add_each(plan, model, PLAN_UNDO, has_undos, err) < 0)
		return -1;
	return model->n_semaphores ? add_each(plan, model, PLAN_TOUCH, lives, err) : 0;
}

static int add_late(struct plan *plan, const Snap__Snapshot *model, enum plan_kind kind,
		    bool leave_files, struct err *err)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		if (has_late_regions(model, model->processes[i], leave_files) &&
		    add(plan, kind, i, 0, err) < 0)
			return -1;
	}
	return 0;
}

static bool is_pty(const Snap__OpenFile *open)
{
	return open->kind == SNAP__OPEN_FILE__KIND__PTY_MASTER ||
	       open->kind == SNAP__OPEN_FILE__KIND__PTY_SLAVE;
}

static int add_terminals(struct plan *plan, const Snap__Snapshot *model, enum plan_kind kind,
			 struct err *err)
{
	/* A number may have been given again after a hang-up: those that have it now come last. */
	for (int hung_up = 1; hung_up >= 0; hung_up--) {
		for (size_t i = 0; i < model->n_terminals; i++) {
			if (model->terminals[i]->hung_up == hung_up && add(plan, kind, 0, i, err) < 0)
				return -1;
		}
	}
	return 0;
}

/* Sessions have their terminals before /dev/tty is opened. */
static int add_ptys(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	if (add_terminals(plan, model, PLAN_TERMINAL, err) < 0)
		return -1;
	for (size_t i = 0; i < model->n_open_files; i++) {
		if (is_pty(model->open_files[i]) && add(plan, PLAN_OPEN, 0, i, err) < 0)
			return -1;
	}
	return add_terminals(plan, model, PLAN_FINISH_TERMINAL, err);
}

static int add_opens(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	if (add_ptys(plan, model, err) < 0)
		return -1;
	for (int sockets = 0; sockets <= 1; sockets++) {
		for (size_t i = 0; i < model->n_open_files; i++) {
			bool is = model->open_files[i]->kind == SNAP__OPEN_FILE__KIND__SOCKET;

			if (is == sockets && !is_pty(model->open_files[i]) &&
			    add(plan, is ? PLAN_SOCKETS : PLAN_OPEN, 0, i, err) < 0)
				return -1;
		}
	}
	return 0;
}

static int add_watches(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < model->n_open_files; i++) {
		if (model->open_files[i]->n_watches && add(plan, PLAN_WATCH, 0, i, err) < 0)
			return -1;
	}
	return 0;
}

static int add_restarts(struct plan *plan, const Snap__Snapshot *model, size_t i, struct err *err)
{
	const Snap__Process *p = model->processes[i];

	for (size_t t = 0; t < p->n_threads; t++) {
		if (p->threads[t]->restart && add(plan, PLAN_RESTART, i, t, err) < 0)
			return -1;
	}
	return 0;
}

/* Which parents the kernel tells of a child's end or stop while that is rebuilt. */
static void mark_told(const struct plan *plan, const Snap__Snapshot *model, bool *told)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];
		size_t parent = plan->lineage.births[i].parent;

		if ((p->zombie || p->stopped) && parent != LINEAGE_INIT)
			told[parent] = true;
	}
}

/* What ends with a process that is complete. */
static int add_last_of(struct plan *plan, const Snap__Snapshot *model, size_t i, bool told,
		       struct err *err)
{
	if ((told && add(plan, PLAN_FORGET, i, 0, err) < 0) ||
	    add(plan, PLAN_TIMERS, i, 0, err) < 0 || add_restarts(plan, model, i, err) < 0)
		return -1;
	return add(plan, PLAN_REGISTERS, i, 0, err);
}

/* A stopped process is complete before its parent, which hears of the stop. */
static int add_lasts(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	cleanup_free bool *told = calloc(model->n_processes + 1, sizeof(*told));

	if (!told)
		return err_set(err, ERR_SYSTEM, "out of memory");
	mark_told(plan, model, told);
	for (int stopped = 1; stopped >= 0; stopped--) {
		for (size_t i = model->n_processes; i-- > 0;) {
			const Snap__Process *p = model->processes[i];

			if (lives(p) && p->stopped == stopped &&
			    add_last_of(plan, model, i, told[i], err) < 0)
				return -1;
		}
	}
	return 0;
}

/* When nobody is created any more, by somebody who may still choose pids. */
static int add_last_pid(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; model->capsule->last_pid > 0 && i < model->n_processes; i++) {
		if (lives(model->processes[i]))
			return add(plan, PLAN_LAST_PID, i, 0, err);
	}
	return 0;
}

static int add_steps(struct plan *plan, const Snap__Snapshot *model, bool leave_files,
		     struct err *err)
{
	if (add_file_reads(plan, model, leave_files, err) < 0 ||
	    add_ipc(plan, model, err) < 0 || add_processes(plan, model, leave_files, err) < 0 ||
	    add_late(plan, model, PLAN_VERIFY_PAGES, leave_files, err) < 0 ||
	    add_privates(plan, model, PLAN_PRIVATE, leave_files, err) < 0 ||
	    add_file_writes(plan, model, leave_files, err) < 0 ||
	    add_privates(plan, model, PLAN_FINISH_PRIVATE, leave_files, err) < 0 ||
	    add_late(plan, model, PLAN_MAP_FILES, leave_files, err) < 0 ||
	    add_ipc_users(plan, model, err) < 0 ||
	    add_each(plan, model, PLAN_PROTECT, plan_owns_memory, err) < 0 ||
	    (leave_files && add_each(plan, model, PLAN_COMPARE, plan_owns_memory, err) < 0) ||
	    (!leave_files && add_opens(plan, model, err) < 0) ||
	    (!leave_files && add_each(plan, model, PLAN_DESCRIPTORS, owns_files, err) < 0) ||
	    add_finishes(plan, model, leave_files, err) < 0 ||
	    add_number(plan, PLAN_FINISH_POSIX_QUEUE, model->n_posix_queues, err) < 0 ||
	    add_watches(plan, model, err) < 0 ||
	    add_each(plan, model, PLAN_ATTRIBUTES, lives, err) < 0 ||
	    add_each(plan, model, PLAN_THREADS, lives, err) < 0 ||
	    add_last_pid(plan, model, err) < 0 ||
	    add_each(plan, model, PLAN_CREDENTIALS, lives, err) < 0 || add_lasts(plan, model, err) < 0)
		return -1;
	return 0;
}

int plan_make(struct plan *ret, const Snap__Snapshot *model, bool leave_files, struct err *err)
{
	struct plan plan = {0};

	if (plan_check(model, err) < 0)
		return -1;
	if (lineage_make(&plan.lineage, model, err) < 0)
		return -1;
	if (add_steps(&plan, model, leave_files, err) < 0) {
		plan_clear(&plan);
		return -1;
	}
	*ret = plan;
	return 0;
}

void plan_clear(struct plan *plan)
{
	free(plan->steps);
	inheritance_clear(&plan->inheritance);
	lineage_clear(&plan->lineage);
	*plan = (struct plan){0};
}
