#include "watchdog/savedir.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"

/* Whether path is dir, or below it. */
static bool is_within(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	while (len && dir[len - 1] == '/')
		len--;
	return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

const char *savedir_refusal(const char *path, const char *home)
{
	static const char *const systems[] = {"/bin",  "/boot", "/dev",	 "/etc", "/lib", "/lib64",
					      "/proc", "/run",	"/sbin", "/sys", "/usr"};
	static const char *const shared[] = {"/",    "/home",	 "/media",   "/mnt",
					     "/opt", "/root",	 "/srv",     "/tmp",
					     "/var", "/var/lib", "/var/log", "/var/tmp"};

	for (size_t i = 0; i < sizeof(systems) / sizeof(*systems); i++)
		if (is_within(path, systems[i]))
			return "it belongs to the system";
	for (size_t i = 0; i < sizeof(shared) / sizeof(*shared); i++)
		if (strcmp(path, shared[i]) == 0)
			return "it holds the files of others";
	if (home && *home == '/' && strcmp(home, "/") != 0 && is_within(home, path))
		return "it holds your home directory";
	return NULL;
}

/* realpath(3) of what exists, and the rest behind it. */
static int resolve(const char *text, char *out, struct err *err)
{
	char head[PATH_MAX], *real, *slash;
	const char *rest = "";

	if (snprintf(head, sizeof(head), "%s", text) >= (int)sizeof(head) || !*text)
		return err_set(err, ERR_INVALID, "'%.100s' is not a path", text);
	for (slash = head + strlen(head); slash > head + 1 && slash[-1] == '/';)
		*--slash = '\0';
	real = realpath(head, out);
	if (real)
		return 0;
	if (errno != ENOENT)
		return err_sys(err, "%s", text);
	slash = strrchr(head, '/');
	rest = slash ? slash + 1 : head;
	if (strcmp(rest, ".") == 0 || strcmp(rest, "..") == 0)
		return err_sys(err, "%s", text);
	if (slash)
		*slash = '\0';
	real = realpath(slash ? (slash == head ? "/" : head) : ".", out);
	if (!real)
		return err_sys(err, "%s", text);
	if (strlen(out) + strlen(rest) + 2 > PATH_MAX)
		return err_set(err, ERR_INVALID, "%s: too long", text);
	strcat(strcmp(out, "/") == 0 ? out : strcat(out, "/"), rest);
	return 0;
}

int savedir_resolve(const char *text, char **ret, struct err *err)
{
	const struct passwd *user = getpwuid(geteuid());
	const char *home = getenv("HOME"), *why;
	char path[2 * PATH_MAX], real_home[PATH_MAX];
	struct stat st;

	if (resolve(text, path, err) < 0)
		return -1;
	if (home && realpath(home, real_home))
		home = real_home;
	why = savedir_refusal(path, home);
	if (!why && user)
		why = savedir_refusal(path, user->pw_dir);
	if (!why && stat(path, &st) == 0) {
		if (!S_ISDIR(st.st_mode))
			why = "it is no directory";
		else if ((st.st_mode & S_ISVTX) && (st.st_mode & S_IWOTH))
			why = "everybody may put files there";
	}
	if (why)
		return err_set(err, ERR_INVALID,
			       "%s cannot belong to a job: %s (recovery removes what the snapshot "
			       "does not have)",
			       path, why);
	*ret = strdup(path);
	return *ret ? 0 : err_sys(err, "%s", path);
}

int savedir_check_store(const char *path, const char *store, struct err *err)
{
	cleanup_free char *real = realpath(store, NULL);

	if (real && is_within(path, real))
		return err_set(err, ERR_INVALID,
			       "--save-dir: %s is in the store (%s): put the store elsewhere "
			       "(--store)",
			       path, real);
	return 0;
}
