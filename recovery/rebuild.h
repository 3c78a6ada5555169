/*
 * rebuild.h: the state of a recovery under way, and the steps that work on it. Private to
 * recovery/.
 *
 * Every step returns 0 or -1 with err naming the process and the object; after a failure the whole
 * recovery is taken down by recovery_free, so that steps clean up only what that cannot see.
 */
#ifndef PAWL_RECOVERY_REBUILD_H
#define PAWL_RECOVERY_REBUILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "checkpointer/tracee/procfs.h"
#include "checkpointer/tracee/remote.h"
#include "recovery/content.h"
#include "recovery/plan.h"
#include "recovery/recovery.h"
#include "recovery/tree_restore.h"

/* A file of the model, as far as it has been made ready. */
struct file_slot {
	int fd; /* of content made here (memfd, unlinked file), a removed directory; -1: reached by its path */
	bool given; /* the job has that very description */
	struct page_runs differ; /* what PLAN_VERIFY_FILE found to differ on disk */
};

/* A pseudo-terminal of the job's own, until its descriptions are open. -1: not (any more) open. */
struct terminal_slot {
	int master, slave;
};

/* A process under construction. */
struct stub {
	const Snap__Process *model;
	pid_t pid; /* in our namespace; 0: not created yet */
	int pidfd;
	struct tracee *threads; /* as model->threads; the first n_threads are seized */
	size_t n_threads;
	struct arch_regs *final; /* as model->threads: what each will run on with */
	struct remote remote;
	bool has_executor; /* calls can be made in it: it has not ended, and does not run on yet */
	int socket;  /* number of the capsule's socket in it */
	int scratch; /* first of STUB_SCRATCH numbers that no descriptor of the job has */
	uint64_t vdso, vdso_end; /* where this kernel's vdso is; 0: nowhere */
	const struct region_image *own; /* what it is filled with */
	bool mapped;		 /* that is there */
	bool entered;		 /* it is in its working directory, which has been removed */
	const struct stub *maker; /* whose `own` it had when it was created; NULL: nobody's */
	struct stub *memory;	 /* whose address space it lives in: often its own */
	size_t tenants;		 /* processes in its address space that need the executor yet */
};

#define STUB_SCRATCH 256 /* descriptors sent at once (SCM_MAX_FD is 253), and the socket */
#define STUB_SEND    250

struct recovery {
	struct store *store;
	const Snap__Snapshot *model;
	const struct recovery_host *host;
	bool leave_files;
	const struct recovery_options *options; /* the caller's, while it is being rebuilt */
	struct plan plan;
	struct file_slot *files; /* as model->files */
	struct tree_restore **trees; /* as model->trees; NULL: not compared yet */
	int *open_fds;		 /* as model->open_files; -1: not open */
	struct terminal_slot *terminals; /* as model->terminals */
	struct stub *stubs;	 /* as model->processes, then as plan.lineage.helpers */
	size_t n_stubs;
	struct stub *donor;	 /* of those that init would make (ahead.h); NULL: init makes them */
	uint64_t executor;	 /* address of the executor in every stub */
	uint64_t pages;		 /* filled */
	struct store_session *hold; /* keeps the snapshot in the store while it is read; NULL: not (any more) */
	struct lazy *lazy;	 /* fills the rest later; NULL: not so */
	int *queues;		 /* as model->posix_queues: ours, to read and write; -1: not made */
	void **segments;	 /* as model->segments: where they are attached to us; NULL: not */
	uint64_t compared;	 /* pages, in a trial */
	char **socket_files;	 /* paths of Unix sockets made so far */
	size_t n_socket_files;
	int64_t clock_lead;	 /* of the job's CLOCK_MONOTONIC before ours, ns */
};

/* ns that the job's CLOCK_MONOTONIC has gone on since the snapshot. As while it is stopped by a signal, its
 * timers and timed waits go on meanwhile: their ends fit what the clock shows it. 0 where a job without a
 * capsule finds the clock of a machine that was started later. */
uint64_t recovery_time_passed(const struct recovery *rec);

/* ---- stub.c -------------------------------------------------------------------------------- */

int stub_spawn(struct recovery *rec, struct stub *stub, struct err *err);
/* What the children of init are born with; theirs inherit it. */
int stub_prepare(struct stub *stub, struct err *err);
/* A place for the executor that is free in the stub as it is, and in what the model has. */
int stub_executor_place(const struct stub *stub, const Snap__Snapshot *model, uint64_t *ret, struct err *err);
/* The thread that acts for the process: the first that lives. */
struct tracee *stub_thread(struct stub *stub);
/* Kills it and reaps what ptrace makes us reap. Takes one that was never created. */
void stub_kill(struct stub *stub);
/* Frees what we hold of it. */
void stub_forget(struct stub *stub);
struct stub *stub_by_pid(struct recovery *rec, int32_t pid);
/* Where we reach `path` of the capsule: its mounts are its own, /proc and some of /dev hold other things, too. What
 * is opened through another mount cannot be linked or renamed by the job (EXDEV). buf of PATH_MAX + 64. */
const char *capsule_path(struct recovery *rec, const char *path, char *buf, size_t len);
/* Whether path leads to something else inside the capsule than outside. */
bool capsule_path_is_private(const char *path);

/* ---- ahead.c ------------------------------------------------------------------------------- */

/* Has the donor make the processes that init would have made. */
int donor_open(struct recovery *rec, struct ahead *ahead, struct err *err);
/* When all are born, or will not be. */
void donor_end(struct recovery *rec);

/* ---- restore_tree.c ------------------------------------------------------------------------ */

int stub_found_session(struct stub *stub, struct err *err);
int stub_set_group(struct stub *stub, int32_t group, struct err *err);
/* A helper ends and is waited for; a zombie ends with its status, and is not. */
int stub_end(struct recovery *rec, size_t member, struct err *err);
/* Takes back what a parent has been told of its children's ends and stops: the signals, and the reports
 * that it had collected before. */
int stub_forget_children(struct recovery *rec, size_t process, struct err *err);
/* Into the job-control stop that it was in, its registers set. Leaves other signal masks behind. */
int stub_stop(struct stub *stub, struct err *err);

/* ---- vdso.c -------------------------------------------------------------------------------- */

/* Empties the address space but for what is inherited, and puts the vdso where the model has it. */
int stub_clear(struct recovery *rec, struct stub *stub, struct err *err);
/* Lowest free page-aligned range of `size` at or above `from` in the ascending ranges of `taken`.
 */
struct range {
	uint64_t start, end;
};
uint64_t find_hole(const struct range *taken, size_t n, uint64_t size, uint64_t from);
/* Union of the regions of all processes and of maps, ascending. *ret malloc'ed. */
int taken_ranges(const Snap__Snapshot *model, const struct proc_map *maps, size_t n_maps,
		 struct range **ret, size_t *ret_n, struct err *err);

/* Copies the saved image of another kernel's vdso to `out` (saved_len bytes) and makes it use this
 * kernel's: over each of its functions goes a jump to the function of the same name in `now`, whose
 * address is now_addr, or the bare system call. Both images are checked as untrusted ELF. *ret_n
 * counts redirected symbols. Pure. */
int vdso_redirect(const void *saved, size_t saved_len, const void *now, size_t now_len,
		  uint64_t now_addr, void *out, size_t *ret_n, struct err *err);

/* ---- CPU specific (x86_64.c) --------------------------------------------------------------- */

#define NATIVE_JUMP_SIZE 12
void native_jump(uint8_t code[NATIVE_JUMP_SIZE], uint64_t target);
/* A function that makes system call nr with its own arguments; nr < 0: that returns -ENOSYS. */
void native_call(uint8_t code[NATIVE_JUMP_SIZE], long nr);
/* ELF e_machine of this CPU. */
unsigned native_elf_machine(void);
/* Bytes of the floating point registers (NT_PRFPREG) at the beginning of a thread's extended state, and the
 * type of that one's note. */
size_t native_fpregs_size(void);
unsigned native_xstate_note(void);
/* Components of an XSAVE area that need permission and are enabled at first use. */
uint64_t native_dynamic_xstate(void);
/* Number of arch_prctl(2) and the option that asks for such permission; -1: no such thing. */
long native_xstate_permission_call(uint64_t *ret_option);

/* ---- restore_mm.c, fill.c ------------------------------------------------------------------ */

/* The early (then those of its image, fosters included) or late regions of a stub, i < stub_n_regions.
 * NULL: that one does not count. */
size_t stub_n_regions(const struct stub *stub, bool late);
const Snap__Region *stub_region(const struct recovery *rec, const struct stub *stub, bool late, size_t i);
/* Root of the page table that has that region's pages. */
uint64_t stub_region_root(const struct recovery *rec, const struct stub *stub, bool late, size_t i);
/* Of an image's piece. */
uint64_t piece_root(const struct recovery *rec, const struct image_piece *piece);
/* What the stub was created with; NULL: nothing of the job's. */
const struct region_image *stub_inherited(const struct stub *stub);
bool region_is_shared(const Snap__Region *region);
/* Of mmap(2), for a region and advice that is given before its pages come (0: none). */
int region_map_flags(const Snap__Region *region);
int region_map_advice(const Snap__Region *region);
int stub_map(struct recovery *rec, struct stub *stub, bool late, struct err *err);
/* Unmaps what was there only to be inherited. */
int stub_shed(struct stub *stub, struct err *err);
int stub_protect(struct recovery *rec, struct stub *stub, struct err *err);
/* Writes the stored pages of the process's early or late regions into it. */
int stub_fill(struct recovery *rec, struct stub *stub, bool late, struct err *err);
/* A trial: reports the pages that are not as stored. */
int stub_compare(struct recovery *rec, struct stub *stub, struct err *err);
/* Only reads (and so checks) them. */
int stub_verify_pages(struct recovery *rec, struct stub *stub, bool late, struct err *err);

/* ---- restore_files.c, temporary.c ---------------------------------------------------------- */

int file_verify(struct recovery *rec, size_t index, struct err *err);
int file_identify(struct recovery *rec, size_t index, struct err *err);
int file_make_temporary(struct recovery *rec, size_t index, struct err *err);
int file_restore(struct recovery *rec, size_t index, struct err *err);
int file_truncate(struct recovery *rec, size_t index, struct err *err);
int file_finish(struct recovery *rec, size_t index, struct err *err);
/* Copies stored content into fd, up to file->size; absent pages stay holes. */
int file_fill(struct recovery *rec, const Snap__File *file, int fd, struct err *err);
/* Opens model file `index` with open(2) flags in our process. */
int file_open(struct recovery *rec, size_t index, int flags, int *ret_fd, struct err *err);

/* ---- restore_shm.c ------------------------------------------------------------------------- */

/* Makes a directory, link, … of the capsule's own /dev/shm; nothing for a regular file. */
int private_make(struct recovery *rec, size_t index, struct err *err);
/* When all files are there: further names of regular files; owner, mode and times of the others. */
int private_finish(struct recovery *rec, size_t index, struct err *err);

/* ---- restore_sysv*.c, restore_mqueue.c ------------------------------------------------------ */

/* Objects of the capsule's IPC namespace, with their content. */
int ipc_set_limit(struct recovery *rec, size_t index, struct err *err);
int segment_make(struct recovery *rec, size_t index, struct err *err);
int semaphores_make(struct recovery *rec, size_t index, struct err *err);
int sysv_queue_make(struct recovery *rec, size_t index, struct err *err);
int stub_attach_segments(struct recovery *rec, struct stub *stub, struct err *err);
/* When all are attached: it is removed if it was. */
int segment_finish(struct recovery *rec, size_t index, struct err *err);
void segment_let_go(struct recovery *rec, size_t index);
int mqueue_make(struct recovery *rec, size_t index, struct err *err);
int mqueue_finish(struct recovery *rec, size_t index, struct err *err);
int open_mqueue(struct recovery *rec, size_t index, struct err *err);
/* What SEM_UNDO is to give back when the process ends; then which semaphores it was the last to change. */
int stub_note_undos(struct recovery *rec, struct stub *stub, struct err *err);
int stub_touch_semaphores(struct recovery *rec, struct stub *stub, struct err *err);

/* ---- restore_fds.c ------------------------------------------------------------------------- */

int open_file(struct recovery *rec, size_t index, struct err *err);
int stub_place_fds(struct recovery *rec, struct stub *stub, struct err *err);
/* Sends up to STUB_SEND descriptors; numbers[i] is the number of fds[i] in the stub. */
int stub_send(struct recovery *rec, struct stub *stub, const int *fds, size_t n, int *numbers,
	      struct err *err);

/* ---- restore_ipc.c ------------------------------------------------------------------------- */

/* Each opens description `index`, and with it those that are other ends of the same object. */
int open_pipe(struct recovery *rec, size_t index, struct err *err);
int set_nonblock(int fd, uint32_t flags);
int lock_open_file(struct recovery *rec, size_t index, struct err *err);
int stub_take_locks(struct recovery *rec, struct stub *stub, struct err *err);

/* ---- restore_sockets.c --------------------------------------------------------------------- */

/* All of them, with what was unread in them, unless open file `index` is made already. */
int restore_sockets(struct recovery *rec, size_t index, struct err *err);
/* After a failure: their files go again. */
void unix_remove_paths(struct recovery *rec);
/* ---- restore_pty.c, restore_special.c ------------------------------------------------------ */

/* Makes the terminal with its settings and queues; then descriptions of it can be opened; then it becomes
 * its session's controlling terminal, is locked, …, and ours are closed. */
int terminal_make(struct recovery *rec, size_t index, struct err *err);
int open_pty(struct recovery *rec, size_t index, struct err *err);
int terminal_finish(struct recovery *rec, size_t index, struct err *err);
void terminal_forget(struct terminal_slot *slot);
int open_pidfd(struct recovery *rec, size_t index, struct err *err);

/* ---- restore_event_fds.c ------------------------------------------------------------------- */

int open_eventfd(struct recovery *rec, size_t index, struct err *err);
int open_signalfd(struct recovery *rec, size_t index, struct err *err);
int open_timerfd(struct recovery *rec, size_t index, struct err *err);
int open_inotify(struct recovery *rec, size_t index, struct err *err);
/* Under the old numbers. */
int inotify_watch(struct recovery *rec, size_t index, struct err *err);
int open_epoll(struct recovery *rec, size_t index, struct err *err);
int stub_tell_epolls(struct recovery *rec, struct stub *stub, struct err *err);

/* ---- restore_process.c, credentials.c, timers.c -------------------------------------------- */

int stub_set_attributes(struct recovery *rec, struct stub *stub, struct err *err);
/* Where the job had come in giving pids: a name made of a pid is not met again. */
int stub_set_last_pid(struct recovery *rec, struct stub *stub, struct err *err);
int stub_set_credentials(struct recovery *rec, struct stub *stub, struct err *err);
/* Of a zombie: only the ids that its parent gets to see. */
int stub_set_zombie_credentials(struct recovery *rec, struct stub *stub, struct err *err);
int stub_set_timers(struct recovery *rec, struct stub *stub, struct err *err);

/* ---- restore_cgroups.c --------------------------------------------------------------------- */

/* What cannot be had here is said. */
void stub_enter_cgroups(const struct stub *stub);

/* ---- restore_controls.c -------------------------------------------------------------------- */

/* prctl(2) and its like for one thread. */
int stub_set_controls(struct stub *stub, size_t thread, struct err *err);
/* Memory policies of the process, and its limits. */
int stub_set_policies(struct stub *stub, struct err *err);
/* seccomp(2); they are suspended for as long as we trace the threads. */
int stub_set_filters(struct stub *stub, struct err *err);
/* Syscall user dispatch. No call can be made in the threads' names afterwards. */
int stub_set_dispatch(struct stub *stub, struct err *err);

/* ---- restore_threads.c, restart.c ---------------------------------------------------------- */

int stub_make_threads(struct recovery *rec, struct stub *stub, struct err *err);
int stub_restart(struct recovery *rec, struct stub *stub, size_t thread, struct err *err);
int stub_set_registers(struct recovery *rec, struct stub *stub, struct err *err);

#endif
