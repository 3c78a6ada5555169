#include "recovery/plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "recovery/inherit.h"
#include "store/base/cleanup.h"
#include "store/base/units.h"

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
	return !is_temporary(file, leave_files) && file->policy != SNAP__FILE__POLICY__IDENTITY;
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

/* Reads content, touches nothing. */
static int add_file_reads(struct plan *plan, const Snap__Snapshot *model, bool leave_files,
			  struct err *err)
{
	for (size_t i = 0; i < model->n_trees; i++) {
		if (add(plan, PLAN_VERIFY_TREE, 0, i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < model->n_files; i++) {
		const Snap__File *file = model->files[i];
		enum plan_kind kind;

		if (is_temporary(file, leave_files))
			kind = PLAN_TEMPORARY_FILE;
		else if (file->kind != SNAP__FILE__KIND__REGULAR)
			continue;
		else if (file->policy == SNAP__FILE__POLICY__RESTORE)
			kind = PLAN_VERIFY_FILE;
		else if (file->policy == SNAP__FILE__POLICY__IDENTITY)
			kind = PLAN_IDENTIFY_FILE;
		else
			continue;
		if (add(plan, kind, 0, i, err) < 0)
			return -1;
	}
	return 0;
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
	size_t n = leave_files ? 0 : model->n_private_entries;

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
		if (is_temporary(model->files[i], leave_files) &&
		    add(plan, PLAN_FINISH_FILE, 0, i, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- processes and their memory ---- */

struct births {
	struct plan *plan;
	const Snap__Snapshot *model;
	bool *mapped; /* by process */
};

static bool owns_memory(const Snap__Process *p)
{
	return true;
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

static int add_births(struct births *b, struct err *err)
{
	size_t n = b->model->n_processes;

	for (size_t i = 0; i < n; i++) {
		if (add_birth(b, i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < n; i++) {
		if (owns_memory(b->model->processes[i]) && add_memory(b, i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < n; i++) {
		if (has_fosters(&b->plan->inheritance.images[i]) &&
		    add(b->plan, PLAN_SHED, i, 0, err) < 0)
			return -1;
	}
	return 0;
}

static int find_makers(size_t **ret, const Snap__Snapshot *model, struct err *err)
{
	size_t *by = calloc(model->n_processes + 1, sizeof(*by));

	if (!by)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < model->n_processes; i++) {
		by[i] = INHERIT_NOBODY;
		for (size_t j = 0; j < i && by[i] == INHERIT_NOBODY; j++)
			if (model->processes[j]->pid == model->processes[i]->ppid)
				by[i] = j;
	}
	*ret = by;
	return 0;
}

static int add_processes(struct plan *plan, const Snap__Snapshot *model, bool leave_files,
			 struct err *err)
{
	cleanup_free bool *mapped = calloc(model->n_processes + 1, sizeof(*mapped));
	cleanup_free size_t *by = NULL;
	struct births births = {.plan = plan, .model = model, .mapped = mapped};

	if (!mapped)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (find_makers(&by, model, err) < 0 ||
	    inheritance_make(&plan->inheritance, model, by, model->n_processes, owns_memory,
			     leave_files, err) < 0)
		return -1;
	return add_births(&births, err);
}

static int add_each(struct plan *plan, const Snap__Snapshot *model, enum plan_kind kind,
		    struct err *err)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		if (add(plan, kind, i, 0, err) < 0)
			return -1;
	}
	return 0;
}

/* A group must exist before others join it: its leader comes first. */
static int add_groups(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	for (int leaders = 1; leaders >= 0; leaders--) {
		for (size_t i = 0; i < model->n_processes; i++) {
			const Snap__Process *p = model->processes[i];

			if ((p->pgid == p->pid) == leaders && p->sid != p->pid &&
			    add(plan, PLAN_GROUP, i, 0, err) < 0)
				return -1;
		}
	}
	return 0;
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

static int add_opens(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < model->n_open_files; i++) {
		if (add(plan, PLAN_OPEN, 0, i, err) < 0)
			return -1;
	}
	return 0;
}

static int add_restarts(struct plan *plan, const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];

		for (size_t t = 0; t < p->n_threads; t++) {
			if (p->threads[t]->restart && add(plan, PLAN_RESTART, i, t, err) < 0)
				return -1;
		}
	}
	return 0;
}

static int add_steps(struct plan *plan, const Snap__Snapshot *model, bool leave_files,
		     struct err *err)
{
	if (add_file_reads(plan, model, leave_files, err) < 0 ||
	    add_processes(plan, model, leave_files, err) < 0 || add_groups(plan, model, err) < 0 ||
	    add_late(plan, model, PLAN_VERIFY_PAGES, leave_files, err) < 0 ||
	    add_privates(plan, model, PLAN_PRIVATE, leave_files, err) < 0 ||
	    add_file_writes(plan, model, leave_files, err) < 0 ||
	    add_privates(plan, model, PLAN_FINISH_PRIVATE, leave_files, err) < 0 ||
	    add_late(plan, model, PLAN_MAP_FILES, leave_files, err) < 0 ||
	    add_each(plan, model, PLAN_PROTECT, err) < 0 || add_opens(plan, model, err) < 0 ||
	    add_each(plan, model, PLAN_DESCRIPTORS, err) < 0 ||
	    add_finishes(plan, model, leave_files, err) < 0 ||
	    add_each(plan, model, PLAN_ATTRIBUTES, err) < 0 ||
	    add_each(plan, model, PLAN_THREADS, err) < 0 ||
	    add_each(plan, model, PLAN_CREDENTIALS, err) < 0 ||
	    add_each(plan, model, PLAN_TIMERS, err) < 0 || add_restarts(plan, model, err) < 0 ||
	    add_each(plan, model, PLAN_REGISTERS, err) < 0)
		return -1;
	return 0;
}

int plan_make(struct plan *ret, const Snap__Snapshot *model, bool leave_files, struct err *err)
{
	struct plan plan = {0};

	if (plan_check(model, err) < 0)
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
	*plan = (struct plan){0};
}

static const char *file_name(const Snap__File *file)
{
	return file->path && *file->path ? file->path : "(unnamed)";
}

static void file_text(const char *verb, const Snap__File *file, char *buf, size_t len)
{
	char size[32];

	snprintf(buf, len, "%s %s (%s)", verb, file_name(file),
		 format_size(file->size, size, sizeof(size)));
}

static void tree_text(const struct plan_step *step, const Snap__Snapshot *model, char *buf,
		      size_t len)
{
	const Snap__Tree *tree = model->trees[step->object];
	char size[32];

	snprintf(buf, len, "%s directory %s (%" PRIu64 " files, %s)",
		 step->kind == PLAN_VERIFY_TREE ? "compare" : "put back", tree->path, tree->files,
		 format_size(tree->bytes, size, sizeof(size)));
}

static void open_text(const Snap__Snapshot *model, size_t index, char *buf, size_t len)
{
	const Snap__OpenFile *open = model->open_files[index];

	switch (open->kind) {
	case SNAP__OPEN_FILE__KIND__STREAM:
		snprintf(buf, len, "take standard stream %d as open file %zu", open->stream, index);
		return;
	case SNAP__OPEN_FILE__KIND__TERMINAL:
		snprintf(buf, len, "take the capsule's terminal as open file %zu", index);
		return;
	case SNAP__OPEN_FILE__KIND__PIPE:
		snprintf(buf, len, "make pipe %" PRIu64 " as open file %zu, %zu bytes unread",
			 open->object, index, open->queue.len);
		return;
	case SNAP__OPEN_FILE__KIND__EVENTFD:
		snprintf(buf, len, "make event counter %" PRIu64 " as open file %zu", open->value,
			 index);
		return;
	case SNAP__OPEN_FILE__KIND__SIGNALFD:
		snprintf(buf, len, "make a signal descriptor as open file %zu", index);
		return;
	case SNAP__OPEN_FILE__KIND__TIMERFD:
		snprintf(buf, len, "make a timer as open file %zu", index);
		return;
	case SNAP__OPEN_FILE__KIND__EPOLL:
		snprintf(buf, len,
			 "make an epoll instance as open file %zu, %zu descriptors watched", index,
			 open->n_watched);
		return;
	case SNAP__OPEN_FILE__KIND__SOCKET:
		snprintf(buf, len,
			 "make Unix socket %" PRIu64 " as open file %zu, %zu bytes unread",
			 open->object, index, open->queue.len);
		return;
	default:
		snprintf(buf, len, "open %s as open file %zu, flags %#o, offset %" PRIu64,
			 file_name(model->files[open->file]), index, open->flags, open->offset);
	}
}

static uint64_t mapped_bytes(const Snap__Process *p)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < p->n_regions; i++)
		sum += p->regions[i]->end - p->regions[i]->start;
	return sum;
}

static void process_text(const struct plan_step *step, const Snap__Process *p, char *buf,
			 size_t len)
{
	char size[32];

	switch (step->kind) {
	case PLAN_SPAWN:
		snprintf(buf, len, "process %d: create as child of %d", p->pid, p->ppid);
		return;
	case PLAN_GROUP:
		snprintf(buf, len, "process %d: process group %d", p->pid, p->pgid);
		return;
	case PLAN_CLEAR:
		snprintf(buf, len, "process %d: empty address space, vdso at %#" PRIx64, p->pid,
			 p->memory->vdso);
		return;
	case PLAN_MAP:
		snprintf(buf, len, "process %d: map and fill %zu regions, %s", p->pid, p->n_regions,
			 format_size(mapped_bytes(p), size, sizeof(size)));
		return;
	case PLAN_DESCRIPTORS:
		snprintf(buf, len, "process %d: place %zu descriptors", p->pid, p->n_fds);
		return;
	case PLAN_ATTRIBUTES:
		snprintf(buf, len, "process %d: directory %s, umask %#o, signal handlers", p->pid,
			 p->cwd, p->umask);
		return;
	case PLAN_THREADS:
		snprintf(buf, len, "process %d: create %zu further threads", p->pid,
			 p->n_threads - 1);
		return;
	case PLAN_TIMERS:
		snprintf(buf, len, "process %d: %zu POSIX timers, interval timers, pending signals",
			 p->pid, p->n_posix_timers);
		return;
	case PLAN_RESTART:
		snprintf(buf, len, "process %d: thread %d back into its timed wait", p->pid,
			 p->threads[step->object]->tid);
		return;
	default:
		break;
	}
}

const char *plan_step_text(const struct plan_step *step, const Snap__Snapshot *model, char *buf,
			   size_t len)
{
	static const char *const about_file[] = {
		[PLAN_VERIFY_FILE] = "read and compare",
		[PLAN_IDENTIFY_FILE] = "look for",
		[PLAN_TEMPORARY_FILE] = "make without a name:",
		[PLAN_RESTORE_FILE] = "put back",
		[PLAN_TRUNCATE_FILE] = "cut back",
		[PLAN_FINISH_FILE] = "mode, times and seals of",
	};
	static const char *const about_process[] = {
		[PLAN_SHED] = "give up regions that only its children keep",
		[PLAN_VERIFY_PAGES] = "read the pages of regions over restored files",
		[PLAN_MAP_FILES] = "map and fill regions over restored files",
		[PLAN_PROTECT] = "protection, advice, brk, arguments, executable",
		[PLAN_CREDENTIALS] = "credentials",
		[PLAN_REGISTERS] = "limits, filters, registers and signal masks",
	};
	size_t kind = step->kind;

	if (kind < sizeof(about_file) / sizeof(*about_file) && about_file[kind])
		file_text(about_file[kind], model->files[step->object], buf, len);
	else if (kind == PLAN_PRIVATE || kind == PLAN_FINISH_PRIVATE)
		snprintf(buf, len, "%s %s", kind == PLAN_PRIVATE ? "make" : "names, mode and times of",
			 model->private_entries[step->object]->path);
	else if (kind == PLAN_VERIFY_TREE || kind == PLAN_RESTORE_TREE)
		tree_text(step, model, buf, len);
	else if (kind == PLAN_OPEN)
		open_text(model, step->object, buf, len);
	else if (kind < sizeof(about_process) / sizeof(*about_process) && about_process[kind])
		snprintf(buf, len, "process %d: %s", model->processes[step->process]->pid,
			 about_process[kind]);
	else
		process_text(step, model->processes[step->process], buf, len);
	return buf;
}

void plan_print(const struct plan *plan, const Snap__Snapshot *model, FILE *out)
{
	char line[4400];

	for (size_t i = 0; i < plan->n_steps; i++)
		fprintf(out, "%3zu. %s\n", i + 1,
			plan_step_text(&plan->steps[i], model, line, sizeof(line)));
}
