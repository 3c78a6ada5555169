/* The environment that ssh is started in, where it is not our own. */
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/replica/ssh_connect.h"

extern char **environ;

/* Which ssh is run, what is run there, and by whose leave. */
static const char *const names[] = {"PAWL_SSH", "PAWL_REMOTE", "SSH_AUTH_SOCK", "KRB5CCNAME", "PATH"};

#define N_NAMES (sizeof(names) / sizeof(*names))

static bool is_of(const char *entry, const char *name)
{
	size_t len = strlen(name);

	return strncmp(entry, name, len) == 0 && (entry[len] == '=' || entry[len] == '\0');
}

static const char *find(char *const *list, const char *name)
{
	for (size_t i = 0; list[i]; i++)
		if (is_of(list[i], name))
			return list[i];
	return NULL;
}

/* That of the entry, where it is one of ours. */
static const char *name_of(const char *entry)
{
	for (size_t i = 0; i < N_NAMES; i++)
		if (is_of(entry, names[i]))
			return names[i];
	return NULL;
}

int strings_copy(const char *const *list, size_t n, char ***ret, struct err *err)
{
	size_t bytes = (n + 1) * sizeof(char *);
	char **made, *at;

	for (size_t i = 0; i < n; i++)
		bytes += strlen(list[i]) + 1;
	made = malloc(bytes);
	if (!made)
		return err_sys(err, "a list of %zu texts", n);
	at = (char *)(made + n + 1);
	for (size_t i = 0; i < n; i++) {
		made[i] = at;
		at = stpcpy(at, list[i]) + 1;
	}
	made[n] = NULL;
	*ret = made;
	return 0;
}

int ssh_environment_get(char ***ret, struct err *err)
{
	const char *list[N_NAMES];

	for (size_t i = 0; i < N_NAMES; i++) {
		list[i] = find(environ, names[i]);
		if (!list[i])
			list[i] = names[i];
	}
	return strings_copy(list, N_NAMES, ret, err);
}

int ssh_environment_as(char *const *theirs, char ***ret, struct err *err)
{
	cleanup_free const char **list = NULL;
	size_t n = 0, most = N_NAMES;

	for (size_t i = 0; environ[i]; i++)
		most++;
	list = calloc(most, sizeof(*list));
	if (!list)
		return err_sys(err, "the environment of ssh");
	/* What they do not speak of is as it is here. */
	for (size_t i = 0; environ[i]; i++) {
		const char *name = name_of(environ[i]);

		if (!name || !find(theirs, name))
			list[n++] = environ[i];
	}
	for (size_t i = 0; i < N_NAMES; i++) {
		const char *entry = find(theirs, names[i]);

		if (entry && strchr(entry, '='))
			list[n++] = entry;
	}
	return strings_copy(list, n, ret, err);
}

const char *ssh_environment_value(char *const *environment, const char *name)
{
	const char *entry = find(environment ? environment : environ, name);
	const char *equals = entry ? strchr(entry, '=') : NULL;

	return equals && equals[1] ? equals + 1 : NULL;
}
