/* What changes in a directory tree between its walk and the freeze. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "checkpointer/tree_impl.h"
#include "store/base/log.h"

#define NAMES	(IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)
#define CONTENT (IN_MODIFY | IN_CLOSE_WRITE)
#define EVENTS	(NAMES | CONTENT | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF)

void tree_watch_begin(struct tree_watch *watch)
{
	*watch = (struct tree_watch){.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)};
	if (watch->fd < 0) {
		log_debug("no inotify instance (%s): directories are walked again in the pause",
			  strerror(errno));
		watch->blind = true;
	}
}

static int remember(struct tree_watch *watch, size_t wd, uint32_t dir)
{
	if (wd >= watch->room) {
		size_t room = wd * 2 + 64;
		uint32_t *more = reallocarray(watch->dirs, room, sizeof(*more));

		if (!more)
			return -1;
		memset(more + watch->room, 0xff, (room - watch->room) * sizeof(*more));
		watch->dirs = more;
		watch->room = room;
	}
	watch->dirs[wd] = dir;
	return 0;
}

int tree_watch_add(void *ctx, uint32_t dir, int fd, struct err *err)
{
	struct tree_watch *watch = ctx;
	char path[64];
	int wd;

	if (watch->fd < 0 || watch->blind)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	wd = inotify_add_watch(watch->fd, path, EVENTS | IN_ONLYDIR);
	if (wd < 0 || remember(watch, (size_t)wd, dir) < 0) {
		log_debug("a directory cannot be watched (%s): walked again in the pause",
			  strerror(errno));
		watch->blind = true;
	}
	return 0;
}

static void apply(struct tree_watch *watch, struct tree *tree, const struct inotify_event *e)
{
	struct tree_object *dir;
	struct tree_entry *entry;
	uint32_t id;

	if (e->mask & (IN_Q_OVERFLOW | IN_UNMOUNT) || e->wd < 0)
		watch->blind = true;
	if (watch->blind || (size_t)e->wd >= watch->room ||
	    (id = watch->dirs[e->wd]) == TREE_NOWHERE)
		return;
	dir = &tree->objects[id];
	if (e->mask & NAMES)
		dir->mark |= TREE_READ_AGAIN | TREE_LOOK_AGAIN;
	if (e->len == 0) {
		dir->mark |= TREE_LOOK_AGAIN | TREE_DETAILS_AGAIN;
		return;
	}
	entry = tree_find(dir, e->name);
	if (!entry)
		return; /* new: found when the names are read again */
	tree->objects[entry->object].mark |= TREE_LOOK_AGAIN | TREE_DETAILS_AGAIN;
	if (e->mask & CONTENT)
		tree->objects[entry->object].mark |= TREE_READ_AGAIN;
}

void tree_watch_drain(struct tree_watch *watch, struct tree *tree)
{
	_Alignas(struct inotify_event) char buf[65536];
	ssize_t n;

	while (watch->fd >= 0 && (n = read(watch->fd, buf, sizeof(buf))) > 0)
		for (ssize_t at = 0; at < n;) {
			const struct inotify_event *e = (const void *)(buf + at);

			apply(watch, tree, e);
			at += (ssize_t)(sizeof(*e) + e->len);
		}
}

void tree_watch_end(struct tree_watch *watch)
{
	if (watch->fd >= 0)
		close(watch->fd);
	free(watch->dirs);
	*watch = (struct tree_watch){.fd = -1};
}
