#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "checkpointer/collect.h"

/*
 * System V IPC objects: they belong to the IPC namespace, not to a process, and stay when nobody
 * uses them. /proc/sysvipc shows the namespace of who opens it (ipc/util.c, sysvipc_proc_open), so
 * the job is asked.
 */

#define LISTING_ROOM 4096u

struct ipc_kind {
	const char *path, *what;
};

/* The first bytes of a /proc file as the process sees it, terminated. NULL: err is set. */
static const char *read_as(struct collected_process *p, const char *path, struct err *err)
{
	struct tracee *thread = &p->frozen->threads[0]->tracee;
	struct remote_call *call;
	uint64_t addr;
	char *text;
	int64_t fd;

	remote_reset(&p->remote);
	call = remote_call(&p->remote, SYS_openat, (uint64_t)AT_FDCWD,
			   remote_push_string(&p->remote, path), O_RDONLY | O_CLOEXEC);
	if (remote_run(&p->remote, thread, err) < 0)
		return NULL;
	fd = call->ret;
	remote_reset(&p->remote);
	text = remote_data(&p->remote, LISTING_ROOM + 1, &addr);
	if (fd < 0) /* a kernel without System V IPC, or a job without /proc */
		return text;
	remote_call(&p->remote, SYS_read, (uint64_t)fd, addr, LISTING_ROOM);
	remote_call(&p->remote, SYS_close, (uint64_t)fd);
	return remote_run(&p->remote, thread, err) < 0 ? NULL : text;
}

static int refuse_first(const char *text, const char *what, struct err *err)
{
	const char *line = strchr(text, '\n'); /* behind the headings */
	int key, id;

	if (!line || sscanf(line, "%d %d", &key, &id) != 2)
		return 0;
	return err_set(err, ERR_UNSUPPORTED, "%s: id %d, key 0x%x, in the job's IPC namespace",
		       what, id, (unsigned)key);
}

int collect_sysv(struct collection *c, struct err *err)
{
	static const struct ipc_kind kinds[] = {
		{"/proc/sysvipc/shm", "System V shared memory"},
		{"/proc/sysvipc/sem", "a System V semaphore set"},
		{"/proc/sysvipc/msg", "a System V message queue"},
	};
	struct collected_process *p = NULL;

	/* An attached job, or one without a capsule, shares the namespace with others. */
	if (c->config->root.attached || c->config->new_ids)
		return 0;
	for (size_t i = 0; i < c->n && !p; i++)
		p = c->processes[i].remote.mirror ? &c->processes[i] : NULL;
	for (size_t i = 0; p && i < sizeof(kinds) / sizeof(*kinds); i++) {
		const char *text = read_as(p, kinds[i].path, err);

		if (!text ||
		    refusals_go_on(&c->refusals, refuse_first(text, kinds[i].what, err), err) < 0)
			return -1;
	}
	if (p)
		remote_reset(&p->remote);
	return 0;
}
