/* Symbolic links and extended attributes of what lies in a directory tree. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/treewalk.h"

#define VALUE_MOST 65536u /* XATTR_SIZE_MAX, linux/limits.h */

/* security.selinux and the like are the system's; trusted.overlay is the file system's own. */
static bool is_kept(const char *name)
{
	static const char *const kept[] = {"user.", "system.posix_acl_"};

	for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
		if (strncmp(name, kept[i], strlen(kept[i])) == 0)
			return true;
	if (geteuid() != 0)
		return false;
	return strcmp(name, "security.capability") == 0 ||
	       (strncmp(name, "trusted.", 8) == 0 && strncmp(name, "trusted.overlay.", 16) != 0);
}

/* There are no extended attributes by descriptor and name before Linux 6.13, but paths through
 * /proc. */
static int through_proc(int dir, const char *name, char *buf, size_t len)
{
	int n = snprintf(buf, len, "/proc/self/fd/%d/%s", dir, name);

	if (n >= 0 && (size_t)n < len)
		return 0;
	errno = ENAMETOOLONG;
	return -1;
}

static int list_names(const char *path, char **ret, size_t *ret_len)
{
	char *names = NULL;
	ssize_t len = llistxattr(path, NULL, 0);

	if (len < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
		len = 0;
	if (len > 0) {
		names = malloc((size_t)len + 1);
		if (!names)
			return -1;
		len = llistxattr(path, names, (size_t)len);
	}
	if (len < 0) {
		free(names);
		return -1;
	}
	if (names)
		names[len] = '\0';
	*ret = names;
	*ret_len = (size_t)len;
	return 0;
}

int read_xattrs(int dir, const char *name, uint8_t **set, uint32_t *len)
{
	cleanup_free char *names = NULL, *value = NULL;
	uint8_t *result = NULL;
	uint32_t result_len = 0;
	char path[400];
	size_t names_len;

	if (through_proc(dir, name, path, sizeof(path)) < 0 ||
	    list_names(path, &names, &names_len) < 0)
		return -1;
	for (size_t at = 0; at < names_len; at += strlen(names + at) + 1) {
		ssize_t n;

		if (!is_kept(names + at))
			continue;
		if (!value && !(value = malloc(VALUE_MOST)))
			break;
		n = lgetxattr(path, names + at, value, VALUE_MOST);
		if (n < 0 && errno == ENODATA)
			continue;
		if (n < 0 ||
		    tree_xattr_append(&result, &result_len, names + at, value, (uint32_t)n) < 0) {
			free(result);
			return -1;
		}
	}
	*set = result;
	*len = result_len;
	return 0;
}

static bool has_name(const uint8_t *set, uint32_t len, const char *name)
{
	struct tree_xattr x;
	uint32_t at = 0;

	while (tree_xattr_next(set, len, &at, &x) > 0)
		if (strcmp(x.name, name) == 0)
			return true;
	return false;
}

int write_xattrs(int dir, const char *name, const uint8_t *set, uint32_t len)
{
	cleanup_free uint8_t *now = NULL;
	struct tree_xattr x;
	uint32_t now_len, at = 0;
	char path[400];

	if (read_xattrs(dir, name, &now, &now_len) < 0 ||
	    through_proc(dir, name, path, sizeof(path)) < 0)
		return -1;
	if (now_len == len && (len == 0 || memcmp(now, set, len) == 0))
		return 0;
	while (tree_xattr_next(now, now_len, &at, &x) > 0)
		if (!has_name(set, len, x.name) && lremovexattr(path, x.name) < 0 &&
		    errno != ENODATA)
			return -1;
	at = 0;
	while (tree_xattr_next(set, len, &at, &x) > 0)
		if (lsetxattr(path, x.name, x.value, x.len, 0) < 0)
			return -1;
	return 0;
}

static int read_target(int dir, const char *name, struct tree_object *o)
{
	char target[TREE_TARGET_MOST + 1];
	ssize_t n = readlinkat(dir, name, target, sizeof(target));

	if (n < 0)
		return -1;
	if (n == 0 || (size_t)n > TREE_TARGET_MOST) {
		errno = ENAMETOOLONG;
		return -1;
	}
	free(o->target);
	o->target = strndup(target, (size_t)n);
	return o->target ? 0 : -1;
}

static int read_details(int dir, const char *name, struct tree_object *o)
{
	uint8_t *set;
	uint32_t len;

	if (o->kind == TREE_SYMLINK && read_target(dir, name, o) < 0)
		return -1;
	if (read_xattrs(dir, name, &set, &len) < 0)
		return -1;
	free(o->xattrs);
	o->xattrs = set;
	o->xattrs_len = len;
	return 0;
}

/* user.* can be read with permission to read only, and that can be missing to the owner. */
static int read_lent(int dir, const char *name, struct tree_object *o)
{
	int saved = errno, result;

	if (errno != EACCES || o->kind == TREE_SYMLINK || o->uid != geteuid() ||
	    fchmodat(dir, name, o->mode | 0400, 0) < 0) {
		errno = saved;
		return -1;
	}
	result = read_details(dir, name, o);
	saved = errno;
	if (fchmodat(dir, name, o->mode, 0) < 0)
		return -1;
	errno = saved;
	return result;
}

int tree_walk_details(struct tree_walk *walk, uint32_t object, struct err *err)
{
	struct tree_object *o = &walk->tree->objects[object];
	char path[TREE_PATH_ROOM] = ".";
	cleanup_fd int dir = -1;

	if (object && o->parent != TREE_NOWHERE &&
	    tree_path(walk->tree, o->parent, path, sizeof(path)) < 0)
		return err_set(err, ERR_UNSUPPORTED, "a path in a directory tree is too long");
	dir = open_beneath(walk->root, path, O_PATH | O_DIRECTORY);
	if (dir < 0 || (read_details(dir, object ? o->name : ".", o) < 0 &&
			(!walk->still || read_lent(dir, object ? o->name : ".", o) < 0)))
		return err_sys(err, "attributes of %s/%s", path, object ? o->name : "");
	return 0;
}
