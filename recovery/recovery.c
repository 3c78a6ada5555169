#include "recovery/recovery.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "recovery/lazy_impl.h"
#include "recovery/rebuild.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/new_ids.h"

#define STOP_NS 2000000000ull

/* What a directory of the job's has that will be removed, made, changed. */
static int print_trees(const Snap__Snapshot *model, struct store *store, FILE *out, struct err *err)
{
	for (size_t i = 0; i < model->n_trees; i++) {
		struct tree_restore *tree;

		if (tree_restore_compare(&tree, store, model->trees[i], err) < 0)
			return -1;
		fprintf(out, "directory %s:%s\n", model->trees[i]->path,
			tree_restore_is_idle(tree) ? " as at the snapshot" : "");
		tree_restore_print(tree, out);
		tree_restore_free(tree);
	}
	return 0;
}

int recovery_check(const Snap__Snapshot *model, struct store *store,
		   const struct recovery_options *options, struct err *err)
{
	struct plan plan;

	if (plan_make(&plan, model, options->leave_files, err) < 0)
		return -1;
	if (options->plan_out)
		plan_print(&plan, model, options->plan_out);
	plan_clear(&plan);
	if (options->plan_out && !options->leave_files &&
	    print_trees(model, store, options->plan_out, err) < 0)
		return -1;
	return plan_check_machine(model, err);
}

static int ignore(void *ctx, enum lineage_act act, size_t member, struct err *err)
{
	return 0;
}

int recovery_check_relations(const Snap__Snapshot *model, struct err *err)
{
	struct lineage lineage;
	int result;

	if (lineage_make(&lineage, model, err) < 0)
		return -1;
	/* Only walking it shows whether the births wait for each other in a circle. */
	result = lineage_walk(&lineage, model, ignore, NULL, err);
	lineage_clear(&lineage);
	return result;
}

static int map_and_fill(struct recovery *rec, struct stub *stub, bool late, struct err *err)
{
	if (stub_map(rec, stub, late, err) < 0)
		return -1;
	if (stub_fill(rec, stub, late, err) < 0)
		return -1;
	stub->mapped = true;
	return 0;
}

static int carry_out(struct recovery *rec, const struct plan_step *step, struct err *err)
{
	struct stub *stub = &rec->stubs[step->process];

	switch (step->kind) {
	case PLAN_VERIFY_TREE:
		return tree_restore_compare(&rec->trees[step->object], rec->store,
					    rec->model->trees[step->object], err);
	case PLAN_RESTORE_TREE:
		return tree_restore_apply(rec->trees[step->object], err);
	case PLAN_VERIFY_FILE:
		return file_verify(rec, step->object, err);
	case PLAN_IDENTIFY_FILE:
		return file_identify(rec, step->object, err);
	case PLAN_TEMPORARY_FILE:
		return file_make_temporary(rec, step->object, err);
	case PLAN_IPC_LIMIT:
		return ipc_set_limit(rec, step->object, err);
	case PLAN_SEGMENT:
		return segment_make(rec, step->object, err);
	case PLAN_SEMAPHORES:
		return semaphores_make(rec, step->object, err);
	case PLAN_QUEUE:
		return sysv_queue_make(rec, step->object, err);
	case PLAN_ATTACH:
		return stub_attach_segments(rec, stub, err);
	case PLAN_FINISH_SEGMENT:
		return segment_finish(rec, step->object, err);
	case PLAN_UNDO:
		return stub_note_undos(rec, stub, err);
	case PLAN_TOUCH:
		return stub_touch_semaphores(rec, stub, err);
	case PLAN_SPAWN:
		return stub_spawn(rec, stub, err);
	case PLAN_SESSION:
		return stub_found_session(stub, err);
	case PLAN_FOUND:
		return stub_set_group(stub, stub->model->pid, err);
	case PLAN_GROUP:
		return stub_set_group(stub, stub->model->pgid, err);
	case PLAN_END:
		return stub_end(rec, step->process, err);
	case PLAN_CLEAR:
		return stub_clear(rec, stub, err);
	case PLAN_MAP:
		return map_and_fill(rec, stub, false, err);
	case PLAN_SHED:
		return stub_shed(stub, err);
	case PLAN_VERIFY_PAGES:
		return stub_verify_pages(rec, stub, true, err);
	case PLAN_PRIVATE:
		return private_make(rec, step->object, err);
	case PLAN_FINISH_PRIVATE:
		return private_finish(rec, step->object, err);
	case PLAN_RESTORE_FILE:
		return file_restore(rec, step->object, err);
	case PLAN_TRUNCATE_FILE:
		return file_truncate(rec, step->object, err);
	case PLAN_MAP_FILES:
		return map_and_fill(rec, stub, true, err);
	case PLAN_PROTECT:
		return stub_protect(rec, stub, err);
	case PLAN_COMPARE:
		return stub_compare(rec, stub, err);
	case PLAN_OPEN:
		return open_file(rec, step->object, err);
	case PLAN_SOCKETS:
		return restore_sockets(rec, step->object, err);
	case PLAN_TERMINAL:
		return terminal_make(rec, step->object, err);
	case PLAN_FINISH_TERMINAL:
		return terminal_finish(rec, step->object, err);
	case PLAN_DESCRIPTORS:
		return stub_place_fds(rec, stub, err);
	case PLAN_FINISH_FILE:
		return file_finish(rec, step->object, err);
	case PLAN_POSIX_QUEUE:
		return mqueue_make(rec, step->object, err);
	case PLAN_FINISH_POSIX_QUEUE:
		return mqueue_finish(rec, step->object, err);
	case PLAN_WATCH:
		return inotify_watch(rec, step->object, err);
	case PLAN_ATTRIBUTES:
		return stub_set_attributes(rec, stub, err);
	case PLAN_THREADS:
		return stub_make_threads(rec, stub, err);
	case PLAN_LAST_PID:
		return stub_set_last_pid(rec, stub, err);
	case PLAN_CREDENTIALS:
		return stub_set_credentials(rec, stub, err);
	case PLAN_FORGET:
		return stub_forget_children(rec, step->process, err);
	case PLAN_TIMERS:
		return stub_set_timers(rec, stub, err);
	case PLAN_RESTART:
		return stub_restart(rec, stub, step->object, err);
	case PLAN_REGISTERS:
		return stub_set_registers(rec, stub, err);
	}
	return err_set(err, ERR_INVALID, "unknown step %d", step->kind);
}

uint64_t recovery_time_passed(const struct recovery *rec)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC) + (uint64_t)rec->clock_lead;

	return now > rec->model->clocks->monotonic ? now - rec->model->clocks->monotonic : 0;
}

static int begin(struct recovery *rec, struct err *err)
{
	const Snap__Snapshot *model = rec->model;

	rec->clock_lead = rec->host->init ? proc_clock_lead(rec->host->init) : 0;
	if (plan_make(&rec->plan, model, rec->leave_files, err) < 0)
		return -1;
	rec->n_stubs = model->n_processes + rec->plan.lineage.n_helpers;
	rec->files = calloc(model->n_files + 1, sizeof(*rec->files));
	rec->open_fds = calloc(model->n_open_files + 1, sizeof(*rec->open_fds));
	rec->stubs = calloc(rec->n_stubs + 1, sizeof(*rec->stubs));
	rec->trees = calloc(model->n_trees + 1, sizeof(struct tree_restore *));
	rec->terminals = calloc(model->n_terminals + 1, sizeof(*rec->terminals));
	rec->segments = calloc(model->n_segments + 1, sizeof(*rec->segments));
	rec->queues = calloc(model->n_posix_queues + 1, sizeof(*rec->queues));
	if (!rec->files || !rec->open_fds || !rec->stubs || !rec->trees || !rec->terminals || !rec->segments ||
	    !rec->queues)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < model->n_files; i++)
		rec->files[i].fd = -1;
	for (size_t i = 0; i < model->n_open_files; i++)
		rec->open_fds[i] = -1;
	for (size_t i = 0; i < model->n_posix_queues; i++)
		rec->queues[i] = -1;
	for (size_t i = 0; i < model->n_terminals; i++)
		rec->terminals[i] = (struct terminal_slot){-1, -1};
	for (size_t i = 0; i < rec->n_stubs; i++)
		rec->stubs[i] = (struct stub){
			.model = lineage_member(&rec->plan.lineage, model, i), .pidfd = -1};
	for (size_t i = 0; i < model->n_processes; i++)
		rec->stubs[i].own = &rec->plan.inheritance.images[i];
	return 0;
}

/* Whoever removes the snapshot meanwhile takes nothing that is still to be read. On a full disk it has to do
 * without. */
static int hold_snapshot(struct recovery *rec, struct err *err)
{
	const struct recovery_options *options = rec->options;

	if (!options->job ||
	    session_begin(&rec->hold, rec->store, options->job, options->seq, CODEC_NONE, err) == 0)
		return 0;
	if (options->lazy || err->kind == ERR_NOT_FOUND)
		return -1;
	log_debug("the snapshot can be removed from the store while it is read: %s", err->msg);
	return 0;
}

static void let_go_of_snapshot(struct recovery *rec)
{
	session_abort(rec->hold);
	rec->hold = NULL;
}

static int carry_out_all(struct recovery *rec, FILE *out, struct err *err)
{
	char text[512];

	if (begin(rec, err) < 0 || plan_check_machine(rec->model, err) < 0 ||
	    (rec->host->new_ids && new_ids_check(rec->model, err) < 0))
		return -1;
	if (out)
		plan_print(&rec->plan, rec->model, out);
	if (hold_snapshot(rec, err) < 0 ||
	    (rec->options->lazy && lazy_begin(&rec->lazy, rec->store, &rec->hold, err) < 0) ||
	    (rec->options->ahead && donor_open(rec, rec->options->ahead, err) < 0))
		return -1;
	for (size_t i = 0; i < rec->plan.n_steps; i++) {
		log_debug("recovery: %s",
			  plan_step_text(&rec->plan, &rec->plan.steps[i], rec->model, text,
					 sizeof(text)));
		if (carry_out(rec, &rec->plan.steps[i], err) < 0)
			return -1;
	}
	donor_end(rec);
	return lazy_look_for_failure(rec->lazy, err);
}

static void free_trees(struct recovery *rec)
{
	for (size_t i = 0; rec->trees && i < rec->model->n_trees; i++)
		tree_restore_free(rec->trees[i]);
	free(rec->trees);
	rec->trees = NULL;
}

/* Our copies of descriptors keep pipes open and files alive: they go as soon as they are placed. */
static void close_files(struct recovery *rec)
{
	for (size_t i = 0; rec->open_fds && i < rec->model->n_open_files; i++) {
		if (rec->open_fds[i] >= 0)
			close(rec->open_fds[i]);
		rec->open_fds[i] = -1;
	}
	for (size_t i = 0; rec->terminals && i < rec->model->n_terminals; i++)
		terminal_forget(&rec->terminals[i]);
	for (size_t i = 0; rec->files && i < rec->model->n_files; i++) {
		if (rec->files[i].fd >= 0)
			close(rec->files[i].fd);
		rec->files[i].fd = -1;
		page_runs_clear(&rec->files[i].differ);
	}
}

static bool has_ended(const struct stub *stub, int *ret_status)
{
	const struct tracee *first = &stub->threads[0];
	struct proc_stat stat;
	struct err ignored;

	if (first->exited_on_us)
		*ret_status = first->exit_status;
	else if (proc_read_stat(stub->pid, 0, &stat, &ignored) == 0 && stat.state == 'Z')
		*ret_status = stat.exit_code;
	else
		return false;
	return true;
}

static const struct stub *find_ended(const struct recovery *rec, int *ret_status)
{
	for (size_t i = 0; rec->stubs && i < rec->model->n_processes; i++)
		if (rec->stubs[i].pid && !rec->stubs[i].model->zombie && has_ended(&rec->stubs[i], ret_status))
			return &rec->stubs[i];
	return NULL;
}

/* What has ended it says more than what came of that. Its first thread may be about to end yet. */
static void explain_gone(const struct recovery *rec, struct err *err)
{
	const struct stub *stub;
	int status, tries = 50;

	while (!(stub = find_ended(rec, &status)) && --tries > 0)
		usleep(1000);
	if (stub && WIFSIGNALED(status))
		err_wrap(err, "process %d was killed by signal %d while it was rebuilt", stub->model->pid,
			 WTERMSIG(status));
	else if (stub)
		err_wrap(err, "process %d ended with status %d while it was rebuilt", stub->model->pid,
			 WEXITSTATUS(status));
}

/* What has failed first says more than what came of that. */
static void explain(const struct recovery *rec, struct err *err)
{
	if (lazy_look_for_failure(rec->lazy, err) == 0 && err->kind == ERR_GONE)
		explain_gone(rec, err);
}

int recovery_rebuild(struct recovery **ret, struct store *store, const Snap__Snapshot *model,
		     const struct recovery_host *host, const struct recovery_options *options,
		     struct recovery_result *ret_result, struct err *err)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	struct recovery *rec = calloc(1, sizeof(*rec));

	if (!rec)
		return err_set(err, ERR_SYSTEM, "out of memory");
	rec->store = store;
	rec->model = model;
	rec->host = host;
	rec->leave_files = options->leave_files;
	rec->options = options;
	if (carry_out_all(rec, options->plan_out, err) < 0) {
		explain(rec, err);
		recovery_free(rec);
		return -1;
	}
	let_go_of_snapshot(rec);
	close_files(rec);
	free_trees(rec);
	rec->options = NULL;
	*ret_result = (struct recovery_result){
		.leader = stub_by_pid(rec, model->capsule->leader)->pid,
		.pages = rec->pages,
		.bytes = rec->pages * STORE_PAGE_SIZE,
		.compared = rec->compared,
		.wall_us = (clock_ns(CLOCK_MONOTONIC) - start) / 1000,
		.lazy = rec->lazy,
	};
	*ret = rec;
	return 0;
}

/* A process in a job-control stop goes back into it by itself, in its own time: not while its parent looks. */
static void await_stop(const struct stub *stub)
{
	uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + STOP_NS;
	struct proc_stat stat;
	struct err gone;

	while (stub->model->stopped && proc_read_stat(stub->pid, 0, &stat, &gone) == 0 && stat.state != 'T' &&
	       clock_ns(CLOCK_MONOTONIC) < deadline)
		usleep(100);
}

static int release_stub(struct stub *stub, bool stopped, struct err *err)
{
	if (stopped && !stub->model->zombie &&
	    syscall(SYS_pidfd_send_signal, stub->pidfd, SIGSTOP, NULL, 0) < 0)
		return err_sys(err, "stopping process %d", stub->model->pid);
	for (size_t i = stub->n_threads; i-- > 0;) {
		/* A process that ends as soon as its first threads run is no failure of ours. */
		if (tracee_detach(&stub->threads[i], err) < 0 && err->kind != ERR_GONE)
			return err_wrap(err, "letting thread %d run", stub->model->threads[i]->tid);
	}
	await_stop(stub);
	return 0;
}

static void forget(struct recovery *rec)
{
	close_files(rec);
	free_trees(rec);
	for (size_t i = 0; rec->segments && i < rec->model->n_segments; i++)
		segment_let_go(rec, i);
	for (size_t i = 0; rec->queues && i < rec->model->n_posix_queues; i++)
		cleanup_fd_p(&rec->queues[i]);
	free(rec->queues);
	free(rec->segments);
	plan_clear(&rec->plan);
	free(rec->files);
	free(rec->open_fds);
	free(rec->terminals);
	free(rec->stubs);
	for (size_t i = 0; i < rec->n_socket_files; i++)
		free(rec->socket_files[i]);
	free(rec->socket_files);
	free(rec);
}

int recovery_release(struct recovery *rec, bool stopped, struct err *err)
{
	struct lazy *lazy = steal_ptr(&rec->lazy);

	if (lazy_release(lazy, err) < 0) {
		recovery_free(rec);
		return -1;
	}
	/* Children first: a parent may look at once what they do. */
	for (size_t i = rec->model->n_processes; i-- > 0;) {
		if (release_stub(&rec->stubs[i], stopped, err) < 0) {
			recovery_free(rec);
			return -1;
		}
	}
	for (size_t i = 0; i < rec->n_stubs; i++)
		stub_forget(&rec->stubs[i]);
	forget(rec);
	return lazy ? lazy_go(lazy, err) : 0;
}

void recovery_free(struct recovery *rec)
{
	if (!rec)
		return;
	let_go_of_snapshot(rec);
	unix_remove_paths(rec);
	donor_end(rec);
	for (size_t i = 0; rec->stubs && i < rec->n_stubs; i++)
		stub_kill(&rec->stubs[i]);
	lazy_free(rec->lazy);
	forget(rec);
}
