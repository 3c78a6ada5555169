#include "recovery/core_dump.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "recovery/batch.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define ROOM_LEAST (1u << 20)

/* core(5): a name without a slash is one in the working directory. */
static bool cores_go_where_we_say(void)
{
	cleanup_free char *pattern = NULL;
	struct err ignored;

	return read_text(AT_FDCWD, "/proc/sys/kernel/core_pattern", &pattern, NULL, &ignored) == 0 &&
	       pattern[0] != '|' && pattern[0] != '\n' && pattern[0] != '\0' && !strchr(pattern, '/');
}

/* No memory: neither the job's nor ours. */
static bool leave_memory_out(pid_t pid)
{
	cleanup_fd int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/coredump_filter", (int)pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write_full(fd, "0", 1) == 0;
}

static bool make_room(pid_t pid)
{
	struct rlimit limit;

	if (prlimit(pid, RLIMIT_CORE, NULL, &limit) < 0 || limit.rlim_max < ROOM_LEAST)
		return false;
	limit.rlim_cur = limit.rlim_max;
	return prlimit(pid, RLIMIT_CORE, &limit, NULL) == 0;
}

int core_prepare(struct stub *stub, struct core_dump *ret, struct err *err)
{
	struct batch b;

	if (!cores_go_where_we_say() || !make_room(stub->pid) || !leave_memory_out(stub->pid))
		return 0;
	snprintf(ret->dir, sizeof(ret->dir), "%s/pawl-core-XXXXXX", P_tmpdir);
	if (!mkdtemp(ret->dir)) {
		ret->dir[0] = '\0';
		return 0;
	}
	/* It may be another user's process by now. */
	if (chmod(ret->dir, 0733) < 0)
		return err_sys(err, "%s", ret->dir);
	batch_begin(&b, stub, &stub->threads[0]);
	if (batch_call(&b, BATCH_IGNORE, err, SYS_chdir, ARGS(batch_push_string(&b, ret->dir)), "directory") < 0 ||
	    batch_call(&b, BATCH_IGNORE, err, SYS_prctl, ARGS(PR_SET_DUMPABLE, 1), "dumpable") < 0 ||
	    batch_run(&b, err) < 0) {
		core_remove(ret);
		return -1;
	}
	ret->ready = true;
	return 0;
}

void core_remove(struct core_dump *core)
{
	cleanup_dir DIR *dir = *core->dir ? opendir(core->dir) : NULL;
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		unlinkat(dirfd(dir), e->d_name, 0);
	if (*core->dir)
		rmdir(core->dir);
	*core = (struct core_dump){0};
}
