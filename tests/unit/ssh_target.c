/* The text behind "ssh://". */
#include <stdlib.h>
#include <string.h>

#include "store/replica/ssh_connect.h"
#include "unit.h"

static struct err err;

static void check(const char *text, const char *host, const char *port, const char *store)
{
	struct ssh_target target;

	assert_int_equal(ssh_target_parse(text, &target, &err), 0);
	assert_string_equal(target.host, host);
	assert_string_equal(target.port, port);
	assert_string_equal(target.store, store);
}

static void test_hints(void **state)
{
	assert_non_null(strstr(ssh_hint("bash: line 1: pawl: command not found"), "$PAWL_REMOTE"));
	assert_non_null(strstr(ssh_hint("me@node2: Permission denied (publickey)."), "agent"));
	assert_non_null(strstr(ssh_hint("Host key verification failed."), "by hand"));
	assert_string_equal(ssh_hint("pawl: cannot create directory /x: No such file or directory"), "");
	assert_string_equal(ssh_hint("ssh: connect to host node2 port 22: Connection refused"), "");
}

static void test_good(void **state)
{
	check("node2", "node2", "", "");
	check("node2/", "node2", "", "");
	check("me@node2/var/pawl", "me@node2", "", "/var/pawl");
	check("me@node2:2222/var/pawl", "me@node2", "2222", "/var/pawl");
	check("node2:22", "node2", "22", "");
	check("[::1]", "::1", "", "");
	check("me@[fe80::1]:22/s", "me@fe80::1", "22", "/s");
	check("node2/~/pawl", "node2", "", "pawl");
}

/* What ssh would take for an option, or what is no address. */
static void test_bad(void **state)
{
	static const char *const bad[] = {"",       "/store",        "-oProxyCommand=x", "node2:",
					  "node:2x", "@node",         "me@",              "[::1",
					  "[::1]x",  "node:12345678", "node/~/-x"};
	struct ssh_target target;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_fails(ssh_target_parse(bad[i], &target, &err), ERR_INVALID, &err);
}

static void test_environment(void **state)
{
	char *theirs[] = {(char *)"PAWL_SSH=their ssh", (char *)"SSH_AUTH_SOCK", (char *)"LD_PRELOAD=evil.so", NULL};
	char **told, **made;

	setenv("PAWL_SSH", "our ssh", 1);
	setenv("PAWL_REMOTE", "our pawl", 1);
	setenv("SSH_AUTH_SOCK", "/our/agent", 1);
	setenv("OTHER", "stays", 1);
	unsetenv("LD_PRELOAD");
	unsetenv("KRB5CCNAME");
	assert_int_equal(ssh_environment_get(&told, &err), 0);
	assert_string_equal(ssh_environment_value(told, "PAWL_SSH"), "our ssh");
	assert_null(ssh_environment_value(told, "KRB5CCNAME"));
	assert_int_equal(ssh_environment_as(theirs, &made, &err), 0);
	assert_string_equal(ssh_environment_value(made, "PAWL_SSH"), "their ssh");
	assert_string_equal(ssh_environment_value(made, "PAWL_REMOTE"), "our pawl");
	assert_null(ssh_environment_value(made, "SSH_AUTH_SOCK"));
	assert_string_equal(ssh_environment_value(made, "OTHER"), "stays");
	assert_null(ssh_environment_value(made, "LD_PRELOAD"));
	assert_string_equal(ssh_environment_value(NULL, "SSH_AUTH_SOCK"), "/our/agent");
	free(told);
	free(made);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_hints),
		cmocka_unit_test(test_good), cmocka_unit_test(test_bad),
		cmocka_unit_test(test_environment)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
