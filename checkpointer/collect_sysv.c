#include "checkpointer/sysv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
#include <unistd.h>

#include "checkpointer/tracee/inside.h"
#include "checkpointer/tracee/ipc_limits.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

int sysv_refuse(const struct ipc_perm *perm, int id, const char *what, const char *why, struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED, "%s: id %d, key 0x%x: %s", what, id, (unsigned)perm->__key, why);
}

int sysv_object(const struct ipc_perm *perm, int id, Snap__SysvObject **ret, struct err *err)
{
	Snap__SysvObject *o = malloc(sizeof(*o));

	if (!o)
		return err_sys(err, "System V object");
	snap__sysv_object__init(o);
	o->id = id;
	o->key = (uint32_t)perm->__key;
	o->uid = perm->uid;
	o->gid = perm->gid;
	o->creator_uid = perm->cuid;
	o->creator_gid = perm->cgid;
	o->mode = perm->mode & 0777;
	*ret = o;
	return 0;
}

int32_t sysv_member(const struct collection *c, pid_t pid)
{
	for (size_t i = 0; i < c->n && pid > 0; i++)
		if (c->processes[i].frozen->tgid == pid)
			return c->processes[i].frozen->vpid;
	return 0;
}

/* ---- limits -------------------------------------------------------------------------------- */

static int add_limit(struct collection *c, const char *name, struct err *err)
{
	cleanup_free char *text = NULL;
	Snap__IpcLimit *l;
	char path[64];

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	if (read_text(AT_FDCWD, path, &text, NULL, err) < 0)
		return err->kind == ERR_NOT_FOUND ? 0 : -1;
	text[strcspn(text, "\n")] = '\0';
	l = snap_append(&c->model->ipc_limits, &c->model->n_ipc_limits, Snap__IpcLimit, SNAP__IPC_LIMIT__INIT);
	if (!l || snap_set_string(&l->name, name) < 0 || snap_set_string(&l->value, text) < 0)
		return err_sys(err, "limits of System V objects");
	return 0;
}

/* Only who is root in the namespace can change them. */
static int collect_limits_of_ipc(const struct sysv_look *look, struct err *err)
{
	if (look->shared || geteuid() != 0)
		return 0;
	for (size_t i = 0; i < IPC_LIMITS; i++)
		if (add_limit(look->c, ipc_limits[i], err) < 0)
			return -1;
	return 0;
}

/* ---- all of it ----------------------------------------------------------------------------- */

static int look_at_all(void *ctx, struct err *err)
{
	struct sysv_look *look = ctx;

	if (sysv_collect_segments(look, err) < 0 || sysv_collect_semaphores(look, err) < 0 ||
	    sysv_collect_queues(look, err) < 0 || mqueue_collect(look, err) < 0)
		return -1;
	return collect_limits_of_ipc(look, err);
}

/* Every attached segment must have been found. */
static int check_attached(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->n_sources; i++) {
		const Snap__File *f = c->model->files[i];
		bool found = f->kind != SNAP__FILE__KIND__SYSV;

		for (size_t k = 0; k < c->model->n_segments && !found; k++)
			found = c->model->segments[k]->file == (int32_t)i;
		if (!found && refusals_go_on(&c->refusals,
					     err_set(err, ERR_UNSUPPORTED,
						     "%s: it is attached, and not in the job's IPC namespace",
						     f->path),
					     err) < 0)
			return -1;
	}
	return 0;
}

int collect_sysv(struct collection *c, struct err *err)
{
	struct sysv_look look = {.c = c, .self = getpid()};
	bool apart;

	/* Without namespaces it could not come back under its ids. */
	if (c->config->new_ids)
		return 0;
	c->sysv = calloc(1, sizeof(*c->sysv));
	if (!c->sysv)
		return err_sys(err, "System V objects");
	if (inside_is_apart(c->config->root.pid, &apart, err) < 0)
		return -1;
	look.shared = !apart;
	if (inside_run(c->config->root.pid, look_at_all, &look, err) < 0 || check_attached(c, err) < 0)
		return -1;
	return sysv_collect_undos(c, err);
}

void collect_sysv_end(struct collection *c)
{
	if (!c->sysv)
		return;
	for (size_t i = 0; i < c->sysv->n; i++)
		shmdt(c->sysv->attached[i]);
	free(c->sysv->attached);
	free(c->sysv);
	c->sysv = NULL;
}
