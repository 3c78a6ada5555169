#include "recovery/core.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/core_impl.h"
#include "recovery/plan.h"
#include "store/base/cleanup.h"

#define PATH_ROOM (PATH_MAX + 32)

static const Snap__Process *find_process(const Snap__Snapshot *model, int32_t pid)
{
	for (size_t i = 0; i < model->n_processes; i++)
		if (model->processes[i]->pid == pid)
			return model->processes[i];
	return NULL;
}

static int choose_process(struct core *core, int32_t pid, struct err *err)
{
	const Snap__Process *p = find_process(core->model, pid);

	if (!p)
		return err_set(err, ERR_NOT_FOUND, "the snapshot has no process %d", pid);
	if (p->zombie)
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d had ended: it has no memory to export", pid);
	core->process = p;
	core->memory = p->shares_memory ? find_process(core->model, p->shares_memory) : p;
	if (!core->memory || !core->memory->memory || core->memory->shares_memory)
		return err_set(err, ERR_CORRUPT, "the memory of process %d is not in the snapshot",
			       pid);
	return 0;
}

/* ---- a file that appears whole ------------------------------------------------------------- */

static int check_place(const char *path, struct err *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_sys(err, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_UNSUPPORTED, "%s is there and no regular file", path);
	return 0;
}

static int name_temporary(const char *path, char *ret, struct err *err)
{
	if (snprintf(ret, PATH_ROOM, "%s.tmp-%d", path, (int)getpid()) >= PATH_MAX)
		return err_set(err, ERR_INVALID, "the file's name is too long: %.60s…", path);
	return 0;
}

/* Without a name where the file system can (then nothing is left whatever happens to us), else with
 * the temporary one. */
static int open_temporary(const char *path, const char *name, bool *ret_named, struct err *err)
{
	char dir[PATH_ROOM];
	int fd;

	snprintf(dir, sizeof(dir), "%s", path);
	*ret_named = false;
	fd = open(dirname(dir), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0) {
		*ret_named = true;
		fd = open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	}
	return fd < 0 ? err_sys(err, "%s", path) : fd;
}

static int sync_directory(const char *path, struct err *err)
{
	char dir[PATH_ROOM];
	cleanup_fd int fd = -1;

	snprintf(dir, sizeof(dir), "%s", path);
	fd = open(dirname(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? err_sys(err, "%s", path) : 0;
}

static int publish(int fd, bool named, const char *name, const char *path, struct err *err)
{
	char link[64];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (!named && linkat(AT_FDCWD, link, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0)
		return err_sys(err, "%s", path);
	if (rename(name, path) < 0) {
		err_sys(err, "%s", path);
		unlink(name);
		return -1;
	}
	return sync_directory(path, err);
}

static int write_file(struct core *core, const char *path, struct err *err)
{
	cleanup_free uint8_t *notes = NULL;
	char name[PATH_ROOM];
	cleanup_fd int fd = -1;
	size_t notes_len;
	bool named;

	if (core_notes(core, &notes, &notes_len, err) < 0 || check_place(path, err) < 0 ||
	    name_temporary(path, name, err) < 0)
		return -1;
	fd = open_temporary(path, name, &named, err);
	if (fd < 0)
		return -1;
	if (core_write(core, fd, notes, notes_len, err) < 0) {
		if (named)
			unlink(name);
		return err_wrap(err, "%s", path);
	}
	return publish(fd, named, name, path, err);
}

int core_export(struct store *store, const Snap__Snapshot *model, int32_t pid, const char *path,
		struct core_result *ret, struct err *err)
{
	struct core core = {.store = store, .model = model};
	int result;

	if (plan_check(model, err) < 0 || choose_process(&core, pid, err) < 0)
		return -1;
	core.result.threads = core.process->n_threads - core.process->leader_exited;
	result = core_lay_out(&core, err);
	if (result == 0)
		result = write_file(&core, path, err);
	if (result == 0)
		*ret = core.result;
	core_clear(&core);
	return result;
}
