/*
 * Names of Unix sockets that no path leads to, or another one, or whose directory is gone: they are bound where nobody
 * sees it, below a directory that is the root of the binding process for that moment.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/sockets.h"
#include "store/base/cleanup.h"

#define PATH_ROOM (2 * PATH_MAX + 64)

/* All directories that path needs, below its first `from` bytes. */
static int make_directories(char *path, size_t from)
{
	for (char *slash = strchr(path + from + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		int result;

		*slash = '\0';
		result = mkdir(path, 0700);
		*slash = '/';
		if (result < 0 && errno != EEXIST)
			return -1;
	}
	return 0;
}

static void remove_hidden(struct recovery *rec, const struct hidden *h)
{
	char buf[PATH_ROOM], *path = buf;
	size_t root_len;

	if (capsule_path(rec, h->path, buf, sizeof(buf)) != buf)
		snprintf(buf, sizeof(buf), "%s", h->path);
	root_len = strlen(buf) - strlen(h->path) + strlen(h->root);
	unlink(path);
	for (char *slash = strrchr(path, '/'); slash && slash >= path + root_len; slash = strrchr(path, '/')) {
		*slash = '\0';
		rmdir(path);
	}
}

/* Of the capsule; *h's strings are malloc'ed. */
static int make_hidden(struct recovery *rec, const char *in, const char *name, struct hidden *h)
{
	const char *tmp = getenv("TMPDIR");
	char root[PATH_MAX], buf[PATH_ROOM];
	size_t before, len;

	snprintf(root, sizeof(root), "%s/.pawl-XXXXXX", in ? in : tmp && *tmp == '/' ? tmp : "/tmp");
	before = strlen(capsule_path(rec, "", buf, sizeof(buf)));
	capsule_path(rec, root, buf, sizeof(buf));
	if (!mkdtemp(buf))
		return -1;
	len = strlen(buf);
	h->root = strdup(buf + before);
	snprintf(buf + len, sizeof(buf) - len, "%s", name);
	h->path = strdup(buf + before);
	if (h->root && h->path && make_directories(buf, len) == 0)
		return 0;
	if (h->root && h->path)
		remove_hidden(rec, h);
	free(h->root);
	free(h->path);
	return -1;
}

const struct hidden *hide_name(struct sockets *s, const char *path, const char *in)
{
	struct hidden *more;

	/* Without a capsule, no process may change its root. */
	if (!s->rec->host->init || s->rec->host->new_ids)
		return NULL;
	more = reallocarray(s->hidden, s->n_hidden + 1, sizeof(*more));
	if (!more)
		return NULL;
	s->hidden = more;
	return make_hidden(s->rec, in, path, &more[s->n_hidden]) < 0 ? NULL : &more[s->n_hidden++];
}

void remove_hidden_names(struct sockets *s)
{
	for (size_t i = 0; i < s->n_hidden; i++) {
		remove_hidden(s->rec, &s->hidden[i]);
		free(s->hidden[i].root);
		free(s->hidden[i].path);
	}
	free(s->hidden);
	s->hidden = NULL;
	s->n_hidden = 0;
}
