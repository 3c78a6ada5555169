/*
 * What a model must be before anything is built from it. Each check names the object that fails.
 */
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "checkpointer/tracee/arch.h"
#include "recovery/plan.h"
#include "store/store.h"
#include "store/tree.h"

#define MAX_AUXV     4096u
#define MAX_HUGE     (64ull << 30)
#define MAX_FD	     (1 << 26)
#define MOST_TERMINALS 4096 /* numbers below are kept busy, a descriptor each, until one comes */
#define N_SIGNALS    64u
#define N_LIMITS_MAX 16u

static int corrupt(struct err *err, const char *what, long id)
{
	return err_set(err, ERR_CORRUPT, "the snapshot contradicts itself: %s %ld", what, id);
}

static bool is_aligned(uint64_t value)
{
	return value % STORE_PAGE_SIZE == 0;
}

static bool path_is_usable(const char *path)
{
	return path && path[0] == '/' && strlen(path) < PATH_MAX;
}

static bool huge_page_is_usable(const Snap__File *file)
{
	uint64_t size = file->huge_page;

	return !size || (size > STORE_PAGE_SIZE && size <= MAX_HUGE && (size & (size - 1)) == 0 && file->size % size == 0);
}

static int check_file(const Snap__File *file, size_t index, struct err *err)
{
	if (file->size > INT64_MAX || file->mtime > INT64_MAX)
		return corrupt(err, "size or time of file", (long)index);
	switch (file->kind) {
	case SNAP__FILE__KIND__SYSV:
	case SNAP__FILE__KIND__MEMFD:
	case SNAP__FILE__KIND__SHARED_ANONYMOUS:
		return huge_page_is_usable(file) ? 0 : corrupt(err, "huge pages of file", (long)index);
	case SNAP__FILE__KIND__REGULAR:
		if (file->deleted && !file->content)
			return err_set(err, ERR_UNSUPPORTED,
				       "%s was deleted, and its content is not in the snapshot",
				       file->path);
		if (file->policy == SNAP__FILE__POLICY__RESTORE && !file->content)
			return corrupt(err, "no content of restored file", (long)index);
		if ((unsigned)file->policy > SNAP__FILE__POLICY__INPUT)
			return corrupt(err, "policy of file", (long)index);
		break;
	case SNAP__FILE__KIND__DIRECTORY:
	case SNAP__FILE__KIND__CHARACTER:
	case SNAP__FILE__KIND__FIFO:
	case SNAP__FILE__KIND__LINK:
	case SNAP__FILE__KIND__SOCKET:
	case SNAP__FILE__KIND__BLOCK:
		break;
	default:
		return err_set(err, ERR_UNSUPPORTED,
			       "%s is of a kind (%d) that cannot be recovered", file->path,
			       file->kind);
	}
	if (file->kind == SNAP__FILE__KIND__LINK && file->deleted && (!file->target || !file->target[0]))
		return corrupt(err, "target of link", (long)index);
	return path_is_usable(file->path) ? 0 : corrupt(err, "path of file", (long)index);
}

/* Only below /dev/shm of the capsule, and without a way out of it. */
static int check_private(const Snap__Snapshot *model, size_t index, struct err *err)
{
	const Snap__PrivateEntry *e = model->private_entries[index];
	bool has_file = e->file >= 0 && (size_t)e->file < model->n_files;

	if (!path_is_usable(e->path) || strncmp(e->path, "/dev/shm/", 9) != 0 || strstr(e->path, "/..") ||
	    e->mtime > INT64_MAX || (S_ISREG(e->mode) && !has_file) || (S_ISLNK(e->mode) && !e->target))
		return corrupt(err, "entry of /dev/shm", (long)index);
	if (S_ISREG(e->mode) && (model->files[e->file]->kind != SNAP__FILE__KIND__REGULAR ||
				 strncmp(model->files[e->file]->path, "/dev/shm/", 9) != 0))
		return corrupt(err, "file of entry of /dev/shm", (long)index);
	return 0;
}

/* What is in its page tables is checked where they are read (store/tree.h). */
static int check_tree(const Snap__Snapshot *model, size_t index, struct err *err)
{
	const Snap__Tree *tree = model->trees[index];
	const char *at = tree->path;

	if (!path_is_usable(at) || strcmp(at, "/") == 0)
		return corrupt(err, "path of directory tree", (long)index);
	for (; *at; at += strcspn(at, "/")) {
		size_t len = strcspn(++at, "/");

		if (len == 0 || (at[0] == '.' && (len == 1 || (len == 2 && at[1] == '.'))))
			return corrupt(err, "path of directory tree", (long)index);
	}
	if (index && strcmp(model->trees[index - 1]->path, tree->path) >= 0)
		return corrupt(err, "order of directory tree", (long)index);
	if (tree->objects > TREE_OBJECTS_MOST)
		return corrupt(err, "size of directory tree", (long)index);
	return 0;
}

static const Snap__Process *find_before(const Snap__Snapshot *model, size_t before, int32_t pid)
{
	for (size_t i = 0; i < before; i++) {
		if (model->processes[i]->pid == pid)
			return model->processes[i];
	}
	return NULL;
}

static int check_pipe(const Snap__Snapshot *model, const Snap__OpenFile *open, size_t index,
		      struct err *err)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < open->n_packets; i++)
		sum += open->packets[i];
	if (open->queue.len > open->capacity || open->capacity > INT32_MAX ||
	    (open->n_packets && sum != open->queue.len) || open->file >= (int64_t)model->n_files ||
	    (open->file >= 0 && model->files[open->file]->kind != SNAP__FILE__KIND__FIFO))
		return corrupt(err, "pipe of open file", (long)index);
	return 0;
}

static bool is_held(const Snap__Snapshot *model, size_t open_file)
{
	for (size_t i = 0; i < model->n_processes; i++)
		for (size_t j = 0; j < model->processes[i]->n_fds; j++)
			if (model->processes[i]->fds[j]->open_file == (int32_t)open_file)
				return true;
	return false;
}

/* What nobody has knows nobody's numbers. */
static int check_epoll(const Snap__Snapshot *model, const Snap__OpenFile *open, size_t index, struct err *err)
{
	bool held = open->n_watched == 0 || is_held(model, index);

	for (size_t i = 0; i < open->n_watched; i++) {
		const Snap__EpollEntry *e = open->watched[i];

		if ((!held && e->open_file == 0) || e->fd < 0 || e->fd > MAX_FD || e->open_file < 0 || (size_t)e->open_file > model->n_open_files)
			return corrupt(err, "epoll instance of open file", (long)index);
	}
	return 0;
}

static int check_terminal(const Snap__Terminal *t, size_t index, struct err *err)
{
	bool sizes = t->rows <= UINT16_MAX && t->columns <= UINT16_MAX && t->x_pixels <= UINT16_MAX &&
		     t->y_pixels <= UINT16_MAX;

	if (t->index < 0 || t->index > MOST_TERMINALS || !sizes || t->discipline != 0 || t->session < 0 ||
	    t->foreground < 0)
		return corrupt(err, "pseudo-terminal", (long)index);
	return 0;
}

static int check_watches(const Snap__Snapshot *model, const Snap__OpenFile *open, size_t index, struct err *err)
{
	int last = 0;

	for (size_t i = 0; i < open->n_watches; i++) {
		const Snap__InotifyWatch *w = open->watches[i];

		if (w->wd <= last || w->file < 0 || (size_t)w->file > model->n_files ||
		    (w->file ? !model->files[w->file - 1]->deleted : !path_is_usable(w->path)))
			return corrupt(err, "watches of open file", (long)index);
		last = w->wd;
	}
	return 0;
}

static int check_open_file(const Snap__Snapshot *model, const Snap__OpenFile *open, size_t index,
			   struct err *err)
{
	switch (open->kind) {
	case SNAP__OPEN_FILE__KIND__FILE:
	case SNAP__OPEN_FILE__KIND__INSIDE:
		if (open->file < 0 || (size_t)open->file >= model->n_files || open->offset > INT64_MAX ||
		    open->pid < 0 || model->files[open->file]->kind == SNAP__FILE__KIND__SYSV)
			return corrupt(err, "open file", (long)index);
		return 0;
	case SNAP__OPEN_FILE__KIND__STREAM:
		if (open->stream < 0 || open->stream > 2)
			return corrupt(err, "stream of open file", (long)index);
		return 0;
	case SNAP__OPEN_FILE__KIND__TERMINAL:
	case SNAP__OPEN_FILE__KIND__EVENTFD:
	case SNAP__OPEN_FILE__KIND__SIGNALFD:
		return 0;
	case SNAP__OPEN_FILE__KIND__EPOLL:
		return check_epoll(model, open, index, err);
	case SNAP__OPEN_FILE__KIND__MESSAGE_QUEUE:
		return open->object < model->n_posix_queues ? 0 : corrupt(err, "queue of open file", (long)index);
	case SNAP__OPEN_FILE__KIND__INOTIFY:
		return check_watches(model, open, index, err);
	case SNAP__OPEN_FILE__KIND__TIMERFD:
		return open->timer && open->timer->remaining < UINT64_MAX / 4
			       ? 0
			       : corrupt(err, "timer of open file", (long)index);
	case SNAP__OPEN_FILE__KIND__PIPE:
		return check_pipe(model, open, index, err);
	case SNAP__OPEN_FILE__KIND__PIDFD:
		return open->pid >= 0 && (!open->pid || find_before(model, model->n_processes, open->pid))
			       ? 0
			       : corrupt(err, "process of open file", (long)index);
	case SNAP__OPEN_FILE__KIND__PTY_MASTER:
	case SNAP__OPEN_FILE__KIND__PTY_SLAVE:
		return open->terminal >= 0 && (size_t)open->terminal < model->n_terminals
			       ? 0
			       : corrupt(err, "terminal of open file", (long)index);
	case SNAP__OPEN_FILE__KIND__SOCKET:
		return plan_check_socket(model, index, err);
	default:
		return err_set(err, ERR_UNSUPPORTED,
			       "open file %zu is of a kind (%d) that cannot be recovered", index,
			       open->kind);
	}
}

static int check_region_kind(const Snap__Snapshot *model, const Snap__Process *p,
			     const Snap__Region *r, struct err *err)
{
	bool needs_file = false, sysv = r->kind == SNAP__REGION__KIND__SYSV_SHM;

	switch (r->kind) {
	case SNAP__REGION__KIND__ANONYMOUS:
	case SNAP__REGION__KIND__HUGETLB:
	case SNAP__REGION__KIND__VDSO:
	case SNAP__REGION__KIND__VVAR:
	case SNAP__REGION__KIND__VSYSCALL:
		break;
	case SNAP__REGION__KIND__FILE_PRIVATE:
	case SNAP__REGION__KIND__FILE_SHARED:
	case SNAP__REGION__KIND__SHARED_MEMORY:
	case SNAP__REGION__KIND__SYSV_SHM:
		needs_file = true;
		break;
	default:
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d: region %#" PRIx64 " is of a kind (%d) that cannot be "
			       "recovered",
			       p->pid, r->start, r->kind);
	}
	if (!needs_file && r->file >= 0)
		return err_set(err, ERR_CORRUPT,
			       "process %d: region %#" PRIx64
			       " has a file that its kind does not have",
			       p->pid, r->start);
	if (needs_file &&
	    (r->file < 0 || (size_t)r->file >= model->n_files || !is_aligned(r->offset) ||
	     r->offset > INT64_MAX || model->files[r->file]->kind == SNAP__FILE__KIND__DIRECTORY ||
	     sysv != (model->files[r->file]->kind == SNAP__FILE__KIND__SYSV)))
		return err_set(err, ERR_CORRUPT,
			       "process %d: region %#" PRIx64 " has no usable file", p->pid,
			       r->start);
	return 0;
}

static int check_regions(const Snap__Snapshot *model, const Snap__Process *p, struct err *err)
{
	uint64_t last = STORE_PAGE_SIZE;
	unsigned vdsos = 0;

	for (size_t i = 0; i < p->n_regions; i++) {
		const Snap__Region *r = p->regions[i];

		if (!is_aligned(r->start) || !is_aligned(r->end) || r->start < last ||
		    r->end <= r->start)
			return err_set(err, ERR_CORRUPT,
				       "process %d: region %#" PRIx64 "-%#" PRIx64
				       " is malformed or overlaps",
				       p->pid, r->start, r->end);
		last = r->end;
		vdsos += r->kind == SNAP__REGION__KIND__VDSO;
		if (check_region_kind(model, p, r, err) < 0)
			return -1;
	}
	return vdsos <= 1 ? 0 : corrupt(err, "more than one vdso in process", p->pid);
}

static int check_fds(const Snap__Snapshot *model, const Snap__Process *p, struct err *err)
{
	int last = -1;

	for (size_t i = 0; i < p->n_fds; i++) {
		const Snap__Fd *fd = p->fds[i];

		if (fd->number <= last || fd->number > MAX_FD)
			return corrupt(err, "order of descriptors in process", p->pid);
		if (fd->open_file < 0 || (size_t)fd->open_file >= model->n_open_files)
			return err_set(err, ERR_CORRUPT, "process %d: fd %d refers to nothing",
				       p->pid, fd->number);
		last = fd->number;
	}
	return 0;
}

static int check_pending(ProtobufCBinaryData *pending, size_t n, long id, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const siginfo_t *info = (const void *)pending[i].data;

		if (pending[i].len != sizeof(*info) || info->si_signo < 1 ||
		    info->si_signo > (int)N_SIGNALS)
			return corrupt(err, "pending signal of", id);
	}
	return 0;
}

static int check_thread(const Snap__Thread *t, struct err *err)
{
	if (t->tid <= 1)
		return corrupt(err, "thread", t->tid);
	if (t->registers.len != sizeof(struct arch_regs))
		return corrupt(err, "size of the registers of thread", t->tid);
	if (t->xstate.len % 64 || t->xstate.len > 65536 || (t->xstate.len && t->xstate.len < 576))
		return corrupt(err, "size of the extended registers of thread", t->tid);
	if (t->cwd && t->cwd[0] && !path_is_usable(t->cwd))
		return corrupt(err, "working directory of thread", t->tid);
	if (t->affinity.len > 8192)
		return corrupt(err, "affinity of thread", t->tid);
	if (t->restart_code && (t->restart || t->restart_code < ARCH_ERESTARTSYS || t->restart_code > ARCH_ERESTARTNOHAND))
		return corrupt(err, "interrupted call of thread", t->tid);
	return check_pending(t->pending, t->n_pending, t->tid, err);
}

static int check_threads(const Snap__Process *p, struct err *err)
{
	if (p->n_threads == 0 || p->threads[0]->tid != p->pid)
		return corrupt(err, "the first thread is not the leader in process", p->pid);
	if (p->leader_exited && p->n_threads == 1)
		return corrupt(err, "no thread is left in process", p->pid);
	for (size_t i = p->leader_exited ? 1 : 0; i < p->n_threads; i++) {
		if (check_thread(p->threads[i], err) < 0)
			return -1;
	}
	return 0;
}

static int check_attributes(const Snap__Snapshot *model, const Snap__Process *p, struct err *err)
{
	if (p->shares_memory && (p->n_regions || p->pages_root))
		return corrupt(err, "memory beside that of another in process", p->pid);
	if (p->shares_files && p->n_fds)
		return corrupt(err, "descriptors beside those of another in process", p->pid);
	if (!p->shares_memory &&
	    (!p->memory || p->memory->auxv.len > MAX_AUXV || p->memory->auxv.len % 16))
		return corrupt(err, "memory bounds of process", p->pid);
	if (!p->credentials || p->credentials->n_uid != 4 || p->credentials->n_gid != 4)
		return corrupt(err, "credentials of process", p->pid);
	if (p->n_actions != N_SIGNALS || p->n_limits > N_LIMITS_MAX || p->n_interval_timers > 3)
		return corrupt(err, "handlers, limits or timers of process", p->pid);
	if (p->cwd_file && (p->cwd_file < 0 || (size_t)p->cwd_file > model->n_files ||
			    model->files[p->cwd_file - 1]->kind != SNAP__FILE__KIND__DIRECTORY ||
			    !model->files[p->cwd_file - 1]->deleted))
		return corrupt(err, "working directory of process", p->pid);
	if (!path_is_usable(p->cwd))
		return corrupt(err, "working directory of process", p->pid);
	if (p->root && *p->root && strcmp(p->root, "/") != 0)
		return err_set(err, ERR_UNSUPPORTED, "process %d has another root directory, %s",
			       p->pid, p->root);
	for (size_t i = 0; i < p->n_posix_timers; i++) {
		if (p->posix_timers[i]->id < 0)
			return corrupt(err, "timer of process", p->pid);
	}
	for (size_t i = 0; i < p->n_cgroups; i++) {
		const Snap__Cgroup *g = p->cgroups[i];

		if (!g->hierarchy || strlen(g->hierarchy) > 256 || !path_is_usable(g->path) || strstr(g->path, "/.."))
			return corrupt(err, "control group of process", p->pid);
	}
	return check_pending(p->pending, p->n_pending, p->pid, err);
}

static int compare_ids(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

/* No thread id twice, in the whole capsule. */
static int check_ids(const Snap__Snapshot *model, struct err *err)
{
	size_t n = 0, used = 0;
	int32_t *ids;
	int result = 0;

	for (size_t i = 0; i < model->n_processes; i++)
		n += model->processes[i]->n_threads;
	ids = calloc(n ? n : 1, sizeof(*ids));
	if (!ids)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < model->n_processes; i++) {
		for (size_t t = 0; t < model->processes[i]->n_threads; t++)
			ids[used++] = model->processes[i]->threads[t]->tid;
	}
	qsort(ids, n, sizeof(*ids), compare_ids);
	for (size_t i = 1; i < n && result == 0; i++) {
		if (ids[i] == ids[i - 1])
			result = corrupt(err, "twice the thread id", ids[i]);
	}
	free(ids);
	return result;
}

static int check_zombie(const Snap__Process *p, struct err *err)
{
	if (p->n_threads || p->n_regions || p->n_fds)
		return corrupt(err, "something is left of zombie", p->pid);
	if (p->credentials && (p->credentials->n_uid != 4 || p->credentials->n_gid != 4))
		return corrupt(err, "credentials of zombie", p->pid);
	return 0;
}

static int check_process(const Snap__Snapshot *model, size_t index, struct err *err)
{
	const Snap__Process *p = model->processes[index];

	if (p->exit_signal < 0 || p->exit_signal > (int)N_SIGNALS || p->stop_signal < 0 ||
	    p->stop_signal > (int)N_SIGNALS)
		return corrupt(err, "signals of process", p->pid);
	if (p->zombie)
		return check_zombie(p, err);
	if (check_attributes(model, p, err) < 0 ||
	    check_regions(model, p, err) < 0 || check_fds(model, p, err) < 0 ||
	    check_threads(p, err) < 0 || plan_check_controls(p, err) < 0)
		return -1;
	if (p->exe_file < -1 || p->exe_file >= (int64_t)model->n_files ||
	    (p->exe_file >= 0 && model->files[p->exe_file]->kind == SNAP__FILE__KIND__SYSV))
		return corrupt(err, "executable of process", p->pid);
	return 0;
}

static int check_leader(const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		if (model->processes[i]->pid == model->capsule->leader &&
		    !model->processes[i]->zombie)
			return 0;
	}
	return corrupt(err, "the job's leader is not among the processes:", model->capsule->leader);
}

int plan_check(const Snap__Snapshot *model, struct err *err)
{
	if (!model->host || !model->clocks || !model->capsule || model->n_processes == 0)
		return err_set(err, ERR_CORRUPT, "the snapshot has no host, clocks or processes");
	for (size_t i = 0; i < model->n_files; i++) {
		if (check_file(model->files[i], i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < model->n_private_entries; i++) {
		if (check_private(model, i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < model->n_trees; i++) {
		if (check_tree(model, i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < model->n_terminals; i++) {
		if (check_terminal(model->terminals[i], i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < model->n_open_files; i++) {
		if (check_open_file(model, model->open_files[i], i, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < model->n_processes; i++) {
		if (check_process(model, i, err) < 0)
			return -1;
	}
	if (plan_check_ipc(model, err) < 0 || check_leader(model, err) < 0)
		return -1;
	return check_ids(model, err);
}

static int check_extended_registers(const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];

		if (p->control && p->control->protection_keys > 1 && !arch_has_protection_keys())
			return err_set(err, ERR_UNSUPPORTED,
				       "process %d has protection keys, which this CPU lacks", p->pid);
		for (size_t t = 0; t < p->n_threads; t++) {
			const ProtobufCBinaryData *xstate = &p->threads[t]->xstate;

			if (arch_check_xstate(xstate->data, xstate->len, err) < 0)
				return err_wrap(err, "process %d: thread %d", p->pid,
						p->threads[t]->tid);
		}
	}
	return 0;
}

int plan_check_machine(const Snap__Snapshot *model, struct err *err)
{
	const Snap__Host *host = model->host;
	struct utsname name;

	if (uname(&name) < 0)
		return err_sys(err, "uname");
	if (host->machine && strcmp(host->machine, name.machine) != 0)
		return err_set(err, ERR_UNSUPPORTED,
			       "the snapshot is of a %s machine, this is a %s", host->machine,
			       name.machine);
	if (host->page_size != STORE_PAGE_SIZE || (long)host->page_size != sysconf(_SC_PAGESIZE))
		return err_set(err, ERR_UNSUPPORTED,
			       "pages of %" PRIu64 " bytes: this machine has %ld", host->page_size,
			       sysconf(_SC_PAGESIZE));
	if (arch_check_cpu(host->cpuid, host->n_cpuid, host->xcr0, host->cpu_baseline, err) < 0)
		return -1;
	return check_extended_registers(model, err);
}
