/*
 * Descriptors: each open file description is opened once, here, and sent into every process that
 * has it (SCM_RIGHTS), so that offsets and flags are shared again as they were.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "recovery/batch.h"
#include "recovery/removed_dirs.h"
#include "store/base/cleanup.h"

#define ENDED_MS       10000
#define SETTABLE_FLAGS (O_APPEND | O_NONBLOCK | O_ASYNC)

static int32_t first_holder(const Snap__Snapshot *model, size_t open_file, size_t *ret_process)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		for (size_t j = 0; j < model->processes[i]->n_fds; j++) {
			if (model->processes[i]->fds[j]->open_file == (int32_t)open_file) {
				*ret_process = i;
				return model->processes[i]->fds[j]->number;
			}
		}
	}
	return -1;
}

static bool is_controlling_terminal(const Snap__File *file)
{
	return file->kind == SNAP__FILE__KIND__CHARACTER && file->rdev == makedev(5, 0);
}

/* /dev/tty means the terminal of whoever opens it: the process must. */
static int open_inside(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	const Snap__File *file = rec->model->files[open->file];
	struct stub *stub;
	size_t process;
	long number;
	uint64_t path;

	if (first_holder(rec->model, index, &process) < 0)
		return 0;
	stub = &rec->stubs[process];
	remote_reset(&stub->remote);
	path = remote_push_string(&stub->remote, file->path);
	if (stub_call(stub, &stub->threads[0], &number, err, "open", SYS_openat,
		      ARGS((uint64_t)AT_FDCWD, path, open->flags | O_NOCTTY | O_CLOEXEC)) < 0)
		return -1;
	if (number < 0)
		return err_code(err, (int)-number, "process %d: opening %s", stub->model->pid,
				file->path);
	rec->open_fds[index] = (int)syscall(SYS_pidfd_getfd, stub->pidfd, (int)number, 0);
	if (rec->open_fds[index] < 0)
		return err_sys(err, "process %d: taking over %s", stub->model->pid, file->path);
	return stub_call(stub, &stub->threads[0], NULL, err, "close", SYS_close,
			 ARGS((uint64_t)number));
}

static int open_path(const char *path, uint32_t flags)
{
	return open(path, (int)(flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC)) | O_NOCTTY | O_CLOEXEC);
}

/* A file of /proc of a process that had ended: a process that is given its number lives while it is opened. No
 * thread of the job has that number; those of other processes are made later. */
static int open_of_ended(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	const Snap__File *file = rec->model->files[open->file];
	struct pollfd end = {.fd = -1, .events = POLLIN};
	cleanup_fd int pidfd = -1;
	char buf[PATH_MAX + 64];
	pid_t pid;

	if (rec->host->new_ids || rec->host->spawn(rec->host->ctx, open->pid, &pid, &pidfd, err) < 0)
		return rec->host->new_ids ? err_set(err, ERR_UNSUPPORTED, "%s: it has ended", file->path)
					  : err_wrap(err, "%s", file->path);
	rec->open_fds[index] = open_path(capsule_path(rec, file->path, buf, sizeof(buf)), open->flags);
	if (rec->open_fds[index] < 0)
		err_sys(err, "opening %s", file->path);
	kill(pid, SIGKILL);
	end.fd = pidfd;
	while (poll(&end, 1, ENDED_MS) < 0 && errno == EINTR)
		;
	/* Init reaps it in its own time; until then its number is not free. */
	for (int i = 0; i < ENDED_MS && kill(pid, 0) == 0; i++)
		usleep(1000);
	return rec->open_fds[index] < 0 ? -1 : 0;
}

static int open_itself(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];

	if ((open->pid ? open_of_ended(rec, index, err) : open_inside(rec, index, err)) < 0)
		return -1;
	/* What the kernel makes up as it is read may be shorter now. */
	if (rec->open_fds[index] >= 0 && open->offset && !(open->flags & O_PATH))
		lseek(rec->open_fds[index], (off_t)open->offset, SEEK_SET);
	return 0;
}

static int open_by_file(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	const Snap__File *file = rec->model->files[open->file];
	int fd;

	if (is_controlling_terminal(file))
		return open_inside(rec, index, err);
	if (file_open(rec, (size_t)open->file, (int)open->flags & ~O_ASYNC, &fd, err) < 0)
		return -1;
	rec->open_fds[index] = fd;
	if (!(open->flags & O_PATH) && file->kind != SNAP__FILE__KIND__CHARACTER && open->offset &&
	    lseek(fd, (off_t)open->offset, SEEK_SET) < 0)
		return err_sys(err, "%s: offset %" PRIu64, file->path, open->offset);
	return 0;
}

static int take_given(struct recovery *rec, size_t index, int fd, const char *what, struct err *err)
{
	int flags = (int)rec->model->open_files[index]->flags & O_NONBLOCK;
	int now;

	if (fd < 0)
		return err_set(err, ERR_UNSUPPORTED,
			       "the job had %s, and this recovery was given none", what);
	rec->open_fds[index] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (rec->open_fds[index] < 0)
		return err_sys(err, "%s", what);
	now = fcntl(fd, F_GETFL);
	if (now >= 0 && (now & O_NONBLOCK) != flags &&
	    fcntl(fd, F_SETFL, (now & ~O_NONBLOCK) | flags) < 0)
		return err_sys(err, "%s: flags", what);
	return 0;
}

int open_file(struct recovery *rec, size_t index, struct err *err)
{
	static const char *const names[] = {"standard input", "standard output", "standard error"};
	const Snap__OpenFile *open = rec->model->open_files[index];

	switch (open->kind) {
	case SNAP__OPEN_FILE__KIND__STREAM:
		return take_given(rec, index, rec->host->stream[open->stream], names[open->stream],
				  err);
	case SNAP__OPEN_FILE__KIND__TERMINAL:
		return take_given(rec, index, rec->host->terminal, "a terminal", err);
	case SNAP__OPEN_FILE__KIND__PIPE:
		return open_pipe(rec, index, err);
	case SNAP__OPEN_FILE__KIND__EVENTFD:
		return open_eventfd(rec, index, err);
	case SNAP__OPEN_FILE__KIND__SIGNALFD:
		return open_signalfd(rec, index, err);
	case SNAP__OPEN_FILE__KIND__TIMERFD:
		return open_timerfd(rec, index, err);
	case SNAP__OPEN_FILE__KIND__MESSAGE_QUEUE:
		return open_mqueue(rec, index, err);
	case SNAP__OPEN_FILE__KIND__INOTIFY:
		return open_inotify(rec, index, err);
	case SNAP__OPEN_FILE__KIND__EPOLL:
		return open_epoll(rec, index, err);
	case SNAP__OPEN_FILE__KIND__SOCKET:
		return 0; /* PLAN_SOCKETS */
	case SNAP__OPEN_FILE__KIND__PIDFD:
		return open_pidfd(rec, index, err);
	case SNAP__OPEN_FILE__KIND__PTY_MASTER:
	case SNAP__OPEN_FILE__KIND__PTY_SLAVE:
		return open_pty(rec, index, err);
	case SNAP__OPEN_FILE__KIND__INSIDE:
		return open_itself(rec, index, err);
	default:
		if (open_by_file(rec, index, err) < 0)
			return -1;
		return lock_open_file(rec, index, err);
	}
}

/* ---- sending ------------------------------------------------------------------------------- */

static int send_fds(int socket, const int *fds, size_t n, struct err *err)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int) * STUB_SEND)];
	} control = {0};
	struct iovec iov = {.iov_base = (char[1]){0}, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(sizeof(int) * n),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * n);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	if (sendmsg(socket, &msg, MSG_NOSIGNAL) != 1)
		return err_sys(err, "sending descriptors");
	return 0;
}

/* struct msghdr and what it points to, in the stub's memory. */
struct remote_message {
	struct msghdr msg;
	struct iovec iov;
	char byte[16];
	_Alignas(16) char control[CMSG_SPACE(sizeof(int) * STUB_SEND)];
};

static struct remote_message *push_message(struct remote *r, size_t n, uint64_t *ret_addr)
{
	struct remote_message *m = remote_data(r, sizeof(*m), ret_addr);

	if (!m)
		return NULL;
	m->iov.iov_base = (void *)(uintptr_t)(*ret_addr + offsetof(struct remote_message, byte));
	m->iov.iov_len = 1;
	m->msg.msg_iov = (void *)(uintptr_t)(*ret_addr + offsetof(struct remote_message, iov));
	m->msg.msg_iovlen = 1;
	m->msg.msg_control =
		(void *)(uintptr_t)(*ret_addr + offsetof(struct remote_message, control));
	m->msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
	return m;
}

static int read_numbers(const struct remote_message *m, size_t n, int *numbers)
{
	const struct cmsghdr *c = (const void *)m->control;

	if (m->msg.msg_flags & MSG_CTRUNC || c->cmsg_level != SOL_SOCKET ||
	    c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int) * n))
		return -1;
	memcpy(numbers, CMSG_DATA(c), sizeof(int) * n);
	return 0;
}

int stub_send(struct recovery *rec, struct stub *stub, const int *fds, size_t n, int *numbers,
	      struct err *err)
{
	struct remote *r = &stub->remote;
	int32_t pid = stub->model->pid;
	struct remote_message *m;
	struct remote_call *call;
	uint64_t addr;
	int result = 0;

	if (send_fds(rec->host->socket, fds, n, err) < 0)
		return err_wrap(err, "process %d", pid);
	remote_reset(r);
	m = push_message(r, n, &addr);
	call = m ? remote_call(r, SYS_recvmsg, (uint64_t)stub->socket, addr, MSG_DONTWAIT) : NULL;
	if (!call)
		return err_set(err, ERR_SYSTEM, "process %d: no room to receive", pid);
	if (remote_run(r, &stub->threads[0], err) < 0)
		result = err_wrap(err, "process %d: receiving descriptors", pid);
	else if (call->ret < 0)
		result = err_code(err, (int)-call->ret, "process %d: receiving descriptors", pid);
	else if (read_numbers(m, n, numbers) < 0)
		result = err_set(err, ERR_SYSTEM,
				 "process %d: %zu descriptors do not fit under its limit", pid, n);
	remote_reset(r);
	return result;
}

/* ---- placing ------------------------------------------------------------------------------- */

/* Above all numbers of the job. Arriving descriptors take the lowest free numbers, and those of the
 * job that are not placed yet are enough of these. */
static int choose_scratch(const Snap__Process *p)
{
	int above = p->n_fds ? p->fds[p->n_fds - 1]->number + 1 : 0;

	return above > STUB_SCRATCH ? above : STUB_SCRATCH;
}

static int queue_dup(struct batch *b, int from, int to, bool close_on_exec, struct err *err)
{
	return batch_call(b, BATCH_MUST, err, SYS_dup3,
			  ARGS((uint64_t)from, (uint64_t)to, close_on_exec ? O_CLOEXEC : 0),
			  "descriptor %d", to);
}

static int queue_close(struct batch *b, int number, struct err *err)
{
	return batch_call(b, BATCH_MUST, err, SYS_close, ARGS((uint64_t)number), "close");
}

/* Whoever gets signals about it is known by its number inside the capsule: set from there. */
static int queue_owner(struct batch *b, const Snap__OpenFile *open, int number, struct err *err)
{
	struct f_owner_ex owner = {.type = open->owner_type, .pid = open->owner};
	uint64_t fd = (uint64_t)number;

	if (!open->owner && !(open->flags & O_ASYNC) && !open->owner_signal)
		return 0;
	if (batch_room(b, 3, sizeof(owner), err) < 0 ||
	    batch_call(b, BATCH_WARN, err, SYS_fcntl,
		       ARGS(fd, F_SETOWN_EX, batch_push(b, &owner, sizeof(owner))),
		       "owner of descriptor %d", number) < 0 ||
	    batch_call(b, BATCH_WARN, err, SYS_fcntl,
		       ARGS(fd, F_SETSIG, (uint64_t)open->owner_signal), "signal of descriptor %d",
		       number) < 0)
		return -1;
	if (!(open->flags & O_ASYNC))
		return 0;
	return batch_call(b, BATCH_WARN, err, SYS_fcntl,
			  ARGS(fd, F_SETFL, open->flags & SETTABLE_FLAGS), "flags of descriptor %d",
			  number);
}

/* The n descriptors of wanted[] have arrived as numbers[]. First out of the way, then in place. */
static int place(struct recovery *rec, struct stub *stub, const size_t *wanted, size_t n,
		 const int *numbers, struct err *err)
{
	const Snap__Process *p = stub->model;
	struct batch b;

	batch_begin(&b, stub, &stub->threads[0]);
	for (size_t i = 0; i < n; i++) {
		if (queue_dup(&b, numbers[i], stub->scratch + 1 + (int)i, true, err) < 0 ||
		    queue_close(&b, numbers[i], err) < 0)
			return -1;
	}
	for (size_t j = 0; j < p->n_fds; j++) {
		const Snap__Fd *fd = p->fds[j];

		for (size_t i = 0; i < n; i++) {
			if (wanted[i] != (size_t)fd->open_file)
				continue;
			if (queue_dup(&b, stub->scratch + 1 + (int)i, fd->number, fd->close_on_exec,
				      err) < 0 ||
			    queue_lease(&b, rec->model->open_files[fd->open_file], fd->number,
					err) < 0 ||
			    queue_owner(&b, rec->model->open_files[fd->open_file], fd->number,
					err) < 0)
				return -1;
		}
	}
	for (size_t i = 0; i < n; i++) {
		if (queue_close(&b, stub->scratch + 1 + (int)i, err) < 0)
			return -1;
	}
	return batch_run(&b, err);
}

static bool has_open_file(const Snap__Process *p, size_t open_file)
{
	for (size_t i = 0; i < p->n_fds; i++) {
		if (p->fds[i]->open_file == (int32_t)open_file)
			return true;
	}
	return false;
}

static int send_and_place(struct recovery *rec, struct stub *stub, const size_t *wanted, size_t n,
			  struct err *err)
{
	int fds[STUB_SEND], numbers[STUB_SEND];

	for (size_t i = 0; i < n; i++)
		fds[i] = rec->open_fds[wanted[i]];
	if (n == 0)
		return 0;
	if (stub_send(rec, stub, fds, n, numbers, err) < 0)
		return -1;
	return place(rec, stub, wanted, n, numbers, err);
}

static int move_socket(struct stub *stub, struct err *err)
{
	struct batch b;

	stub->scratch = choose_scratch(stub->model);
	if (stub->socket == stub->scratch)
		return 0;
	batch_begin(&b, stub, &stub->threads[0]);
	if (queue_dup(&b, stub->socket, stub->scratch, true, err) < 0 ||
	    queue_close(&b, stub->socket, err) < 0)
		return -1;
	stub->socket = stub->scratch;
	return batch_run(&b, err);
}

int stub_place_fds(struct recovery *rec, struct stub *stub, struct err *err)
{
	size_t wanted[STUB_SEND], n = 0;

	if (move_socket(stub, err) < 0)
		return -1;
	for (size_t i = 0; i < rec->model->n_open_files; i++) {
		if (!has_open_file(stub->model, i))
			continue;
		wanted[n++] = i;
		if (n == STUB_SEND) {
			if (send_and_place(rec, stub, wanted, n, err) < 0)
				return -1;
			n = 0;
		}
	}
	if (send_and_place(rec, stub, wanted, n, err) < 0)
		return -1;
	if (stub_tell_epolls(rec, stub, err) < 0 || stub_take_locks(rec, stub, err) < 0 ||
	    (stub->model->cwd_file && stub_enter_removed(rec, stub, err) < 0))
		return -1;
	return stub_call(stub, &stub->threads[0], NULL, err, "close", SYS_close,
			 ARGS((uint64_t)stub->socket));
}
