/* Decoding of sock_diag answers, and addresses. */
#include "unit.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#include "checkpointer/tracee/sockdiag.h"

static size_t add_attribute(char *buf, size_t at, unsigned type, const void *data, size_t len)
{
	struct nlattr head = {.nla_len = (uint16_t)(NLA_HDRLEN + len), .nla_type = (uint16_t)type};

	memcpy(buf + at, &head, sizeof(head));
	memcpy(buf + at + NLA_HDRLEN, data, len);
	return at + NLA_ALIGN(head.nla_len);
}

static void test_unix(void **state)
{
	const struct unix_diag_msg msg = {.udiag_type = SOCK_STREAM, .udiag_state = 10, .udiag_ino = 77};
	const uint32_t icons[] = {5, 0, 9}, peer = 42, vfs[] = {1234, 8}, queue[] = {3, 16};
	const uint8_t shut = SOCKET_SHUT_WR;
	struct unix_info info;
	struct err err = {0};
	char buf[256] = {0};
	size_t len = sizeof(msg);

	(void)state;
	memcpy(buf, &msg, sizeof(msg));
	len = add_attribute(buf, len, UNIX_DIAG_PEER, &peer, sizeof(peer));
	len = add_attribute(buf, len, UNIX_DIAG_VFS, vfs, sizeof(vfs));
	len = add_attribute(buf, len, UNIX_DIAG_RQLEN, queue, sizeof(queue));
	len = add_attribute(buf, len, UNIX_DIAG_SHUTDOWN, &shut, sizeof(shut));
	len = add_attribute(buf, len, UNIX_DIAG_ICONS, icons, sizeof(icons));
	assert_int_equal(sockdiag_parse_unix(buf, len, &info, &err), 0);
	assert_int_equal(info.inode, 77);
	assert_true(info.has_peer && info.peer == 42);
	assert_true(info.has_file && info.file_inode == 1234);
	assert_true(info.queued == 3 && info.limit == 16);
	assert_int_equal(info.shutdown, SOCKET_SHUT_WR);
	assert_int_equal(info.n_icons, 3);
	assert_int_equal(info.icons[2], 9);
	unix_info_clear(&info);
	/* Cut anywhere, it is refused or says less; never more. */
	for (size_t cut = 0; cut < len; cut++) {
		if (sockdiag_parse_unix(buf, cut, &info, &err) < 0) {
			assert_true(cut < sizeof(msg));
			continue;
		}
		assert_true(info.n_icons <= 3);
		unix_info_clear(&info);
	}
}

static void test_inet(void **state)
{
	struct inet_diag_msg msg = {.idiag_family = AF_INET, .idiag_state = 1, .idiag_inode = 5,
				    .idiag_rqueue = 11};
	const struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80),
					    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const uint8_t shut = SOCKET_SHUT_RD;
	struct inet_address same;
	struct inet_info info;
	struct err err = {0};
	char buf[256] = {0};
	size_t len;

	(void)state;
	msg.id.idiag_sport = htons(80);
	msg.id.idiag_src[0] = htonl(INADDR_LOOPBACK);
	memcpy(buf, &msg, sizeof(msg));
	len = add_attribute(buf, sizeof(msg), INET_DIAG_SHUTDOWN, &shut, sizeof(shut));
	assert_int_equal(sockdiag_parse_inet(buf, len, &info, &err), 0);
	assert_int_equal(info.shutdown, SOCKET_SHUT_RD);
	assert_int_equal(info.queued, 11);
	assert_int_equal(inet_address_from(&same, &address, sizeof(address)), 0);
	assert_true(inet_address_equal(&info.local, &same));
	assert_true(inet_address_is_loopback(&same) && inet_address_is_any(&info.remote));
	assert_int_equal(sockdiag_parse_inet(buf, sizeof(msg) - 1, &info, &err), -1);
}

static void test_addresses(void **state)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(443),
				   .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0hidden"};
	struct inet_address a;
	char text[128];

	(void)state;
	assert_string_equal(address_text(&six, sizeof(six), text, sizeof(text)), "[::1]:443");
	assert_string_equal(address_text(&name, 2 + 7, text, sizeof(text)), "@hidden");
	assert_string_equal(address_text(&name, 2, text, sizeof(text)), "(unnamed)");
	assert_int_equal(inet_address_from(&a, &six, sizeof(six) - 1), -1);
	assert_int_equal(inet_address_from(&a, &name, sizeof(name)), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unix),
		cmocka_unit_test(test_inet),
		cmocka_unit_test(test_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
