/*
 * The plan: what it checks, and the order it puts the steps in.
 */
#include "unit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checkpointer/tracee/arch.h"
#include "recovery/plan.h"

enum { OUTPUT, PROGRAM, SCRATCH, SHARED };

static Snap__File *add_file(Snap__Snapshot *m, const char *path, Snap__File__Policy policy)
{
	Snap__File *f = snap_append(&m->files, &m->n_files, Snap__File, SNAP__FILE__INIT);

	assert_int_equal(snap_set_string(&f->path, path), 0);
	f->policy = policy;
	f->content = true;
	f->size = 5000;
	return f;
}

static Snap__Region *add_region(Snap__Process *p, uint64_t start, uint64_t pages,
				Snap__Region__Kind kind, int32_t file)
{
	Snap__Region *r = snap_append(&p->regions, &p->n_regions, Snap__Region, SNAP__REGION__INIT);

	r->start = start;
	r->end = start + pages * 4096;
	r->kind = kind;
	r->file = file;
	r->prot = PROT_READ | PROT_WRITE;
	return r;
}

static Snap__Thread *add_thread(Snap__Process *p, int32_t tid)
{
	static const struct arch_regs regs;
	Snap__Thread *t = snap_append(&p->threads, &p->n_threads, Snap__Thread, SNAP__THREAD__INIT);

	t->tid = tid;
	assert_int_equal(snap_set_bytes(&t->registers, &regs, sizeof(regs)), 0);
	return t;
}

static void set_ids(size_t *n, uint32_t **ids)
{
	*n = 4;
	*ids = calloc(4, sizeof(**ids));
	assert_non_null(*ids);
}

static Snap__Process *add_process(Snap__Snapshot *m, int32_t pid, int32_t ppid)
{
	Snap__Process *p =
		snap_append(&m->processes, &m->n_processes, Snap__Process, SNAP__PROCESS__INIT);

	p->pid = p->pgid = pid;
	p->ppid = ppid;
	p->sid = 1;
	p->exe_file = PROGRAM;
	p->memory = malloc(sizeof(*p->memory));
	snap__memory__init(p->memory);
	p->credentials = malloc(sizeof(*p->credentials));
	snap__credentials__init(p->credentials);
	set_ids(&p->credentials->n_uid, &p->credentials->uid);
	set_ids(&p->credentials->n_gid, &p->credentials->gid);
	assert_int_equal(snap_set_string(&p->cwd, "/tmp"), 0);
	for (int i = 0; i < 64; i++)
		snap_append(&p->actions, &p->n_actions, Snap__SigAction, SNAP__SIG_ACTION__INIT);
	add_thread(p, pid);
	return p;
}

static void add_fd(Snap__Process *p, int32_t number, int32_t open_file)
{
	Snap__Fd *fd = snap_append(&p->fds, &p->n_fds, Snap__Fd, SNAP__FD__INIT);

	fd->number = number;
	fd->open_file = open_file;
}

/* One process of two threads with a program, an output file, a memfd and a shared mapping. */
static Snap__Snapshot *make_model(void)
{
	Snap__Snapshot *m = malloc(sizeof(*m));
	Snap__OpenFile *open;
	Snap__Process *p;

	snap__snapshot__init(m);
	m->host = malloc(sizeof(*m->host));
	snap__host__init(m->host);
	m->clocks = malloc(sizeof(*m->clocks));
	snap__clocks__init(m->clocks);
	m->capsule = malloc(sizeof(*m->capsule));
	snap__capsule__init(m->capsule);
	m->capsule->leader = 7;
	add_file(m, "/data/output", SNAP__FILE__POLICY__RESTORE);
	add_file(m, "/bin/program", SNAP__FILE__POLICY__IDENTITY);
	add_file(m, "scratch", SNAP__FILE__POLICY__RESTORE)->kind = SNAP__FILE__KIND__MEMFD;
	add_file(m, "/data/shared", SNAP__FILE__POLICY__RESTORE);
	open = snap_append(&m->open_files, &m->n_open_files, Snap__OpenFile, SNAP__OPEN_FILE__INIT);
	open->file = OUTPUT;
	p = add_process(m, 7, 1);
	add_region(p, 0x400000, 4, SNAP__REGION__KIND__FILE_PRIVATE, PROGRAM);
	add_region(p, 0x500000, 4, SNAP__REGION__KIND__ANONYMOUS, -1);
	add_region(p, 0x600000, 2, SNAP__REGION__KIND__FILE_SHARED, SHARED);
	add_thread(p, 9)->restart = true;
	add_fd(p, 1, 0);
	return m;
}

static size_t position(const struct plan *plan, enum plan_kind kind, size_t object)
{
	for (size_t i = 0; i < plan->n_steps; i++) {
		if (plan->steps[i].kind == kind && plan->steps[i].object == object)
			return i;
	}
	return SIZE_MAX;
}

static void test_reads_before_writes(void **state)
{
	Snap__Snapshot *m = make_model();
	struct plan plan;
	struct err err;
	size_t first_write;

	assert_int_equal(plan_make(&plan, m, false, &err), 0);
	first_write = position(&plan, PLAN_RESTORE_FILE, OUTPUT);
	assert_true(first_write != SIZE_MAX);
	for (size_t i = first_write; i < plan.n_steps; i++) {
		enum plan_kind kind = plan.steps[i].kind;

		assert_true(kind != PLAN_VERIFY_FILE && kind != PLAN_IDENTIFY_FILE &&
			    kind != PLAN_TEMPORARY_FILE && kind != PLAN_MAP);
	}
	assert_true(position(&plan, PLAN_VERIFY_FILE, SHARED) < first_write);
	assert_true(position(&plan, PLAN_VERIFY_PAGES, 0) < first_write);
	assert_true(position(&plan, PLAN_MAP_FILES, 0) > first_write);
	assert_true(position(&plan, PLAN_MAP_FILES, 0) != SIZE_MAX);
	plan_clear(&plan);
	snap__snapshot__free_unpacked(m, NULL);
}

static void test_order_of_a_process(void **state)
{
	static const enum plan_kind order[] = {
		PLAN_SPAWN,	  PLAN_FOUND,	   PLAN_CLEAR,	 PLAN_MAP,	   PLAN_PROTECT,
		PLAN_DESCRIPTORS, PLAN_ATTRIBUTES, PLAN_THREADS, PLAN_CREDENTIALS, PLAN_TIMERS,
	};
	Snap__Snapshot *m = make_model();
	struct plan plan;
	struct err err;

	assert_int_equal(plan_make(&plan, m, false, &err), 0);
	for (size_t i = 1; i < sizeof(order) / sizeof(*order); i++)
		assert_true(position(&plan, order[i - 1], 0) < position(&plan, order[i], 0));
	assert_true(position(&plan, PLAN_TIMERS, 0) < position(&plan, PLAN_RESTART, 1));
	assert_int_equal(position(&plan, PLAN_REGISTERS, 0), plan.n_steps - 1);
	assert_int_equal(position(&plan, PLAN_RESTART, 0), SIZE_MAX);
	plan_clear(&plan);
	snap__snapshot__free_unpacked(m, NULL);
}

static void test_trial_touches_nothing_outside(void **state)
{
	Snap__Snapshot *m = make_model();
	struct plan plan;
	struct err err;

	m->files[SHARED]->policy = SNAP__FILE__POLICY__RESTORE;
	assert_int_equal(plan_make(&plan, m, true, &err), 0);
	for (size_t i = 0; i < plan.n_steps; i++) {
		assert_int_not_equal(plan.steps[i].kind, PLAN_RESTORE_FILE);
		assert_int_not_equal(plan.steps[i].kind, PLAN_TRUNCATE_FILE);
		assert_int_not_equal(plan.steps[i].kind, PLAN_RESTORE_TREE);
		assert_int_not_equal(plan.steps[i].kind, PLAN_OPEN);
		assert_int_not_equal(plan.steps[i].kind, PLAN_DESCRIPTORS);
	}
	/* What is mapped is copied; what is only open is not needed. */
	assert_true(position(&plan, PLAN_TEMPORARY_FILE, SHARED) != SIZE_MAX);
	assert_int_equal(position(&plan, PLAN_TEMPORARY_FILE, OUTPUT), SIZE_MAX);
	plan_clear(&plan);
	snap__snapshot__free_unpacked(m, NULL);
}

static void test_groups_after_their_leaders(void **state)
{
	Snap__Snapshot *m = make_model();
	size_t founded, joined = SIZE_MAX;
	struct plan plan;
	struct err err;

	add_process(m, 20, 7)->pgid = 30;
	add_process(m, 30, 7);
	assert_int_equal(plan_make(&plan, m, false, &err), 0);
	for (founded = 0; founded < plan.n_steps; founded++) {
		if (plan.steps[founded].kind == PLAN_FOUND && plan.steps[founded].process == 2)
			break;
	}
	for (size_t i = 0; i < plan.n_steps; i++) {
		if (plan.steps[i].kind == PLAN_GROUP) {
			assert_int_equal(plan.steps[i].process, 1);
			joined = i;
		}
	}
	assert_true(founded < joined && joined != SIZE_MAX);
	plan_clear(&plan);
	snap__snapshot__free_unpacked(m, NULL);
}

static Snap__Process *add_zombie(Snap__Snapshot *m, int32_t pid, int32_t ppid)
{
	Snap__Process *p =
		snap_append(&m->processes, &m->n_processes, Snap__Process, SNAP__PROCESS__INIT);

	p->pid = pid;
	p->ppid = ppid;
	p->pgid = 7;
	p->sid = 1;
	p->zombie = true;
	p->exit_signal = SIGCHLD;
	return p;
}

/* A zombie is born, named and ended, and its parent forgets the signal; no other step is about it. */
static void test_zombies(void **state)
{
	Snap__Snapshot *m = make_model();
	size_t ended = 0, forgot = 0, timers = 0;
	struct plan plan;
	struct err err;

	add_zombie(m, 20, 7);
	assert_int_equal(plan_make(&plan, m, false, &err), 0);
	for (size_t i = 0; i < plan.n_steps; i++) {
		const struct plan_step *step = &plan.steps[i];

		if (step->kind == PLAN_END)
			ended = i;
		else if (step->kind == PLAN_FORGET)
			forgot = i;
		else if (step->kind == PLAN_TIMERS)
			timers = i;
		if (step->process == 1)
			assert_true(step->kind == PLAN_SPAWN || step->kind == PLAN_GROUP ||
				    step->kind == PLAN_END);
	}
	assert_true(0 < ended && ended < forgot && forgot < timers);
	plan_clear(&plan);
	snap__snapshot__free_unpacked(m, NULL);
}

/* The parent of a stopped process hears of the stop: it is completed afterwards. */
static void test_stopped_before_parent(void **state)
{
	Snap__Snapshot *m = make_model();
	size_t order[3], n = 0;
	struct plan plan;
	struct err err;

	add_process(m, 20, 7);
	add_process(m, 30, 20)->stopped = true;
	assert_int_equal(plan_make(&plan, m, false, &err), 0);
	for (size_t i = 0; i < plan.n_steps; i++) {
		if (plan.steps[i].kind == PLAN_REGISTERS)
			order[n++] = plan.steps[i].process;
		if (plan.steps[i].kind == PLAN_FORGET)
			assert_int_equal(plan.steps[i].process, 1);
	}
	assert_int_equal(n, 3);
	assert_int_equal(order[0], 2);
	plan_clear(&plan);
	snap__snapshot__free_unpacked(m, NULL);
}

static void test_every_step_has_a_text(void **state)
{
	Snap__Snapshot *m = make_model();
	char text[256];
	struct plan plan;
	struct err err;

	assert_int_equal(plan_make(&plan, m, false, &err), 0);
	for (size_t i = 0; i < plan.n_steps; i++) {
		text[0] = '\0';
		plan_step_text(&plan, &plan.steps[i], m, text, sizeof(text));
		assert_true(text[0] != '\0');
		assert_null(strchr(text, '\n'));
	}
	plan_clear(&plan);
	snap__snapshot__free_unpacked(m, NULL);
}

/* ---- models that must be refused ----------------------------------------------------------- */

static void no_processes(Snap__Snapshot *m)
{
	m->capsule->leader = 99;
}

static void overlap(Snap__Snapshot *m)
{
	m->processes[0]->regions[1]->start = 0x403000;
}

static void unaligned(Snap__Snapshot *m)
{
	m->processes[0]->regions[1]->end += 1;
}

static void backwards(Snap__Snapshot *m)
{
	m->processes[0]->regions[1]->end = 0x500000;
}

static void page_zero(Snap__Snapshot *m)
{
	m->processes[0]->regions[0]->start = 0;
}

static void file_out_of_range(Snap__Snapshot *m)
{
	m->processes[0]->regions[0]->file = 4;
}

static void region_without_file(Snap__Snapshot *m)
{
	m->processes[0]->regions[2]->file = -1;
}

static void open_file_out_of_range(Snap__Snapshot *m)
{
	m->processes[0]->fds[0]->open_file = 1;
}

static void fd_twice(Snap__Snapshot *m)
{
	add_fd(m->processes[0], 1, 0);
}

static void short_registers(Snap__Snapshot *m)
{
	m->processes[0]->threads[1]->registers.len--;
}

static void odd_xstate(Snap__Snapshot *m)
{
	char area[100] = {0};

	assert_int_equal(snap_set_bytes(&m->processes[0]->threads[0]->xstate, area, sizeof(area)),
			 0);
}

static void leader_not_first(Snap__Snapshot *m)
{
	m->processes[0]->threads[0]->tid = 8;
}

static void tid_twice(Snap__Snapshot *m)
{
	m->processes[0]->threads[1]->tid = 7;
}

static void pid_of_init(Snap__Snapshot *m)
{
	m->processes[0]->pid = m->processes[0]->threads[0]->tid = m->capsule->leader = 1;
}

static void own_parent(Snap__Snapshot *m)
{
	m->processes[0]->ppid = 7;
}

static void relative_path(Snap__Snapshot *m)
{
	m->files[OUTPUT]->path[0] = 'x';
}

static void no_content(Snap__Snapshot *m)
{
	m->files[OUTPUT]->content = false;
}

static void odd_siginfo(Snap__Snapshot *m)
{
	Snap__Process *p = m->processes[0];

	assert_int_equal(snap_append_bytes(&p->pending, &p->n_pending, "signal", 6), 0);
}

static void huge_auxv(Snap__Snapshot *m)
{
	static const char auxv[8192];

	assert_int_equal(snap_set_bytes(&m->processes[0]->memory->auxv, auxv, sizeof(auxv)), 0);
}

static void few_handlers(Snap__Snapshot *m)
{
	Snap__Process *p = m->processes[0];

	snap__sig_action__free_unpacked(p->actions[--p->n_actions], NULL);
}

static void zombie(Snap__Snapshot *m)
{
	m->capsule->leader = 20;
	add_zombie(m, 20, 7);
}

/* Its parent never was in the session that it is in. */
static void foreign_session(Snap__Snapshot *m)
{
	add_process(m, 20, 7);
	add_process(m, 30, 7)->sid = 20;
	m->processes[1]->sid = 20;
	add_process(m, 40, 7);
	add_process(m, 50, 40)->sid = 20;
}

static void group_of_another_session(Snap__Snapshot *m)
{
	add_process(m, 20, 7)->sid = 20;
	add_process(m, 30, 7)->pgid = 20;
}

static void parent_is_zombie(Snap__Snapshot *m)
{
	add_zombie(m, 20, 7);
	add_process(m, 30, 20);
}

static void zombie_with_threads(Snap__Snapshot *m)
{
	add_thread(add_zombie(m, 20, 7), 20);
}

static void shares_with_later(Snap__Snapshot *m)
{
	add_process(m, 20, 7)->shares_files = 30;
	add_process(m, 30, 7);
}

static void shares_handlers_alone(Snap__Snapshot *m)
{
	add_process(m, 20, 7)->shares_handlers = 7;
}

static void shares_with_cousin(Snap__Snapshot *m)
{
	add_process(m, 20, 7);
	add_process(m, 30, 20);
	add_process(m, 40, 7)->shares_files = 30;
}

static void regions_beside_shared(Snap__Snapshot *m)
{
	Snap__Process *p = add_process(m, 20, 7);

	p->shares_memory = 7;
	add_region(p, 0x400000, 4, SNAP__REGION__KIND__ANONYMOUS, -1);
}

static void only_thread_exited(Snap__Snapshot *m)
{
	add_process(m, 20, 7)->leader_exited = true;
}

static void chroot_jail(Snap__Snapshot *m)
{
	assert_int_equal(snap_set_string(&m->processes[0]->root, "/jail"), 0);
}

static void sysv_region(Snap__Snapshot *m)
{
	m->processes[0]->regions[1]->kind = SNAP__REGION__KIND__SYSV_SHM;
}

static void protection_key(Snap__Snapshot *m)
{
	m->processes[0]->regions[1]->protection_key = 16;
}

static void odd_huge_page(Snap__Snapshot *m)
{
	m->files[0]->kind = SNAP__FILE__KIND__MEMFD;
	m->files[0]->huge_page = 12288;
}

static void epoll_without_file(Snap__Snapshot *m)
{
	Snap__OpenFile *open = m->open_files[0];
	Snap__EpollEntry *e;

	open->kind = SNAP__OPEN_FILE__KIND__EPOLL;
	e = snap_append(&open->watched, &open->n_watched, Snap__EpollEntry, SNAP__EPOLL_ENTRY__INIT);
	assert_non_null(e);
	e->open_file = (int32_t)m->n_open_files + 1;
}

static void inotify(Snap__Snapshot *m)
{
	Snap__OpenFile *o = m->open_files[0];

	o->kind = SNAP__OPEN_FILE__KIND__INOTIFY;
	assert_non_null(snap_append(&o->watches, &o->n_watches, Snap__InotifyWatch, SNAP__INOTIFY_WATCH__INIT));
}

static void deleted_without_content(Snap__Snapshot *m)
{
	m->files[OUTPUT]->deleted = true;
	m->files[OUTPUT]->content = false;
}

static void link_to_nothing(Snap__Snapshot *m)
{
	m->files[0]->kind = SNAP__FILE__KIND__LINK;
	m->files[0]->deleted = true;
}

static void watch_without_file(Snap__Snapshot *m)
{
	Snap__OpenFile *o = m->open_files[0];
	Snap__InotifyWatch *w = snap_append(&o->watches, &o->n_watches, Snap__InotifyWatch, SNAP__INOTIFY_WATCH__INIT);

	assert_non_null(w);
	o->kind = SNAP__OPEN_FILE__KIND__INOTIFY;
	w->wd = 1;
	w->file = 1 + OUTPUT; /* which has a path */
}

static void thread_directory(Snap__Snapshot *m)
{
	assert_int_equal(snap_set_string(&m->processes[0]->threads[1]->cwd, "relative"), 0);
}

static void directory_that_is_none(Snap__Snapshot *m)
{
	m->processes[0]->cwd_deleted = true;
	m->processes[0]->cwd_file = 1 + OUTPUT;
}

static const struct refusal {
	const char *name;
	void (*spoil)(Snap__Snapshot *m);
	enum err_kind kind;
} refusals[] = {
	{"leader missing", no_processes, ERR_CORRUPT},
	{"regions overlap", overlap, ERR_CORRUPT},
	{"unaligned", unaligned, ERR_CORRUPT},
	{"empty region", backwards, ERR_CORRUPT},
	{"page zero", page_zero, ERR_CORRUPT},
	{"file out of range", file_out_of_range, ERR_CORRUPT},
	{"region without file", region_without_file, ERR_CORRUPT},
	{"open file out of range", open_file_out_of_range, ERR_CORRUPT},
	{"descriptor twice", fd_twice, ERR_CORRUPT},
	{"short registers", short_registers, ERR_CORRUPT},
	{"odd xstate", odd_xstate, ERR_CORRUPT},
	{"leader not first", leader_not_first, ERR_CORRUPT},
	{"tid twice", tid_twice, ERR_CORRUPT},
	{"pid of init", pid_of_init, ERR_CORRUPT},
	{"own parent", own_parent, ERR_CORRUPT},
	{"relative path", relative_path, ERR_CORRUPT},
	{"no content", no_content, ERR_CORRUPT},
	{"odd siginfo", odd_siginfo, ERR_CORRUPT},
	{"huge auxv", huge_auxv, ERR_CORRUPT},
	{"few handlers", few_handlers, ERR_CORRUPT},
	{"leader is a zombie", zombie, ERR_CORRUPT},
	{"foreign session", foreign_session, ERR_UNSUPPORTED},
	{"group of another session", group_of_another_session, ERR_CORRUPT},
	{"parent is a zombie", parent_is_zombie, ERR_CORRUPT},
	{"zombie with threads", zombie_with_threads, ERR_CORRUPT},
	{"shares with a later one", shares_with_later, ERR_CORRUPT},
	{"shares handlers alone", shares_handlers_alone, ERR_CORRUPT},
	{"shares with a cousin", shares_with_cousin, ERR_UNSUPPORTED},
	{"regions beside shared ones", regions_beside_shared, ERR_CORRUPT},
	{"its only thread exited", only_thread_exited, ERR_CORRUPT},
	{"chroot", chroot_jail, ERR_UNSUPPORTED},
	{"System V region", sysv_region, ERR_CORRUPT},
	{"protection key", protection_key, ERR_CORRUPT},
	{"huge pages of a size that is none", odd_huge_page, ERR_CORRUPT},
	{"epoll watching nothing", epoll_without_file, ERR_CORRUPT},
	{"inotify watching nothing", inotify, ERR_CORRUPT},
	{"watch on a file that is there", watch_without_file, ERR_CORRUPT},
	{"working directory of a thread", thread_directory, ERR_CORRUPT},
	{"link to nothing", link_to_nothing, ERR_CORRUPT},
	{"working directory that is none", directory_that_is_none, ERR_CORRUPT},
	{"deleted without content", deleted_without_content, ERR_UNSUPPORTED},
};

static void test_refusals(void **state)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(*refusals); i++) {
		Snap__Snapshot *m = make_model();
		struct plan plan;
		struct err err = {0};

		refusals[i].spoil(m);
		print_message("%s\n", refusals[i].name);
		assert_fails(plan_make(&plan, m, false, &err), refusals[i].kind, &err);
		snap__snapshot__free_unpacked(m, NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_before_writes),
		cmocka_unit_test(test_order_of_a_process),
		cmocka_unit_test(test_trial_touches_nothing_outside),
		cmocka_unit_test(test_groups_after_their_leaders),
		cmocka_unit_test(test_zombies),
		cmocka_unit_test(test_stopped_before_parent),
		cmocka_unit_test(test_every_step_has_a_text),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
