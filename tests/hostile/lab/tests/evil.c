// SPDX-License-Identifier: GPL-2.0
/*
 * What root of a guest may try against the host: evil DEED [PORT]...
 *
 * It tells what it did and ends with 0, unless the machine ended before: whether it came through
 * is seen on the host.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const evil_hosts[] = {
	"127.0.0.1", "10.0.2.2", "10.0.2.3", "10.0.2.4", "10.0.2.15", "10.0.2.100", "10.0.2.255",
	"169.254.169.254", "169.254.1.1", "255.255.255.255", "224.0.0.1", "0.0.0.0", "1.1.1.1",
	"192.168.0.1", "192.168.1.1", "172.17.0.1", "172.16.0.1", "10.0.0.1", "127.0.0.53",
};

static const char *const evil_hosts6[] = { "::1", "fe80::2", "fec0::2", "fec0::3", "2001:db8::1",
					   "::ffff:10.0.2.2", "ff02::1" };

static struct sockaddr_in evil_address(const char *host, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, host, &to.sin_addr);
	return to;
}

static void evil_tcp(int family, const void *to, socklen_t size)
{
	int sock = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct pollfd wait = { .fd = sock, .events = POLLOUT };
	int error = 0;
	socklen_t room = sizeof(error);

	if (sock < 0)
		return;
	if (connect(sock, to, size) == 0 || errno == EINPROGRESS) {
		poll(&wait, 1, 150);
		if (getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &room) == 0 && error == 0)
			send(sock, "evil\n", 5, MSG_NOSIGNAL);
	}
	close(sock);
}

static void evil_udp(int family, const void *to, socklen_t size)
{
	int sock = socket(family, SOCK_DGRAM, 0);
	int yes = 1;

	if (sock < 0)
		return;
	setsockopt(sock, SOL_SOCKET, SO_BROADCAST, &yes, sizeof(yes));
	sendto(sock, "evil\n", 5, MSG_DONTWAIT, to, size);
	close(sock);
}

static void evil_connect(char **ports)
{
	size_t at;

	for (; *ports; ports++) {
		int port = atoi(*ports);

		for (at = 0; at < sizeof(evil_hosts) / sizeof(*evil_hosts); at++) {
			struct sockaddr_in to = evil_address(evil_hosts[at], port);

			evil_tcp(AF_INET, &to, sizeof(to));
			evil_udp(AF_INET, &to, sizeof(to));
		}
		for (at = 0; at < sizeof(evil_hosts6) / sizeof(*evil_hosts6); at++) {
			struct sockaddr_in6 to = { .sin6_family = AF_INET6,
						   .sin6_port = htons(port),
						   .sin6_scope_id = if_nametoindex("eth0") };

			inet_pton(AF_INET6, evil_hosts6[at], &to.sin6_addr);
			evil_tcp(AF_INET6, &to, sizeof(to));
			evil_udp(AF_INET6, &to, sizeof(to));
		}
	}
	puts("tried all addresses");
}

/* A question for DNS: whether it is answered would tell of a way out. */
static void evil_dns(void)
{
	static const char question[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
				       "\x06" "debian" "\x03" "org" "\x00\x00\x01\x00\x01";
	struct sockaddr_in to = evil_address("10.0.2.3", 53);
	int sock = socket(AF_INET, SOCK_DGRAM, 0);
	struct pollfd wait = { .fd = sock, .events = POLLIN };

	sendto(sock, question, sizeof(question) - 1, 0, (void *)&to, sizeof(to));
	printf("DNS: %s\n", poll(&wait, 1, 2000) > 0 ? "answered" : "silent");
	close(sock);
}

static void evil_ping(void)
{
	struct icmphdr echo = { .type = ICMP_ECHO, .checksum = htons(0xf7ff) };
	size_t at;

	for (at = 0; at < sizeof(evil_hosts) / sizeof(*evil_hosts); at++) {
		struct sockaddr_in to = evil_address(evil_hosts[at], 0);
		int sock = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);

		sendto(sock, &echo, sizeof(echo), MSG_DONTWAIT, (void *)&to, sizeof(to));
		close(sock);
	}
}

/* Frames of all lengths and kinds, most of them no protocol's at all. */
static void evil_frames(int count)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_halen = 6,
				  .sll_ifindex = if_nametoindex("eth0") };
	int sock = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	static const unsigned short kinds[] = { 0x0800, 0x0806, 0x86dd, 0x8100, 0x88cc, 0x888e };
	unsigned char frame[1514];
	int number, sent = 0;

	srandom(1);
	for (number = 0; number < count; number++) {
		size_t size = 14 + random() % (sizeof(frame) - 14), at;
		unsigned short kind = kinds[random() % 6];

		for (at = 0; at < size; at++)
			frame[at] = random();
		/* To the gateway, or to everybody. */
		memcpy(frame, number % 2 ? "\x52\x55\x0a\x00\x02\x02" : "\xff\xff\xff\xff\xff\xff", 6);
		frame[12] = kind >> 8;
		frame[13] = kind;
		if (kind == 0x0800 && size > 34) {
			frame[14] = 0x45 + random() % 3;
			frame[23] = (unsigned char[]){ 1, 2, 6, 17, 47, 255 }[random() % 6];
			memcpy(frame + 26, "\x0a\x00\x02\x0f\x0a\x00\x02", 7);
			frame[33] = 2 + random() % 3;
		}
		sent += send(sock, frame, size, 0) > 0 ||
			sendto(sock, frame, size, 0, (void *)&to, sizeof(to)) > 0;
	}
	printf("sent %d of %d frames\n", sent, count);
}

/* The port where the lab was called before the guest was frozen: another caller, another word. */
static void evil_call(void)
{
	struct sockaddr_in to = evil_address("10.0.2.100", 22);
	int sock = socket(AF_INET, SOCK_STREAM, 0), count;
	char junk[1000];

	memset(junk, 0xff, sizeof(junk));
	if (connect(sock, (void *)&to, sizeof(to)))
		perror("connect");
	for (count = 0; count < 100; count++)
		if (send(sock, junk, sizeof(junk), MSG_NOSIGNAL) < 0)
			break;
	printf("sent %d times\n", count);
	sleep(3);
}

/* Each port but those of the clock, the consoles and the disks: reset, power, debug exits too. */
static void evil_ports(void)
{
	int port;

	if (iopl(3))
		perror("iopl");
	puts("now");
	fflush(stdout);
	for (port = 0xfffe; port >= 0; port--) {
		outb(0xff, port);
		outw(0x2000, port);
	}
	outb(0xfe, 0x64);
	outb(0x06, 0xcf9);
	outb(0x0e, 0xcf9);
}

static void evil_memory(void)
{
	int fd = open("/dev/mem", O_RDWR);
	char junk[4096];
	long at, written = 0;

	memset(junk, 0xff, sizeof(junk));
	for (at = 0; at < 0x100000000; at += 1 << 20)
		written += pwrite(fd, junk, sizeof(junk), at) > 0;
	printf("wrote %ld times\n", written);
}

/* A kernel of one instruction. */
static void evil_kexec(void)
{
	static char code[4096] = "\xfa\xf4\xeb\xfc";
	struct kexec_segment segment = { code, sizeof(code), (void *)0x1000000, 4096 };

	if (syscall(SYS_kexec_load, 0x1000000L, 1L, &segment, KEXEC_ARCH_X86_64)) {
		perror("kexec_load");
		return;
	}
	puts("now");
	fflush(stdout);
	reboot(LINUX_REBOOT_CMD_KEXEC);
	perror("kexec");
}

int main(int argc, char **argv)
{
	const char *deed = argc > 1 ? argv[1] : "";

	if (!strcmp(deed, "connect")) {
		evil_connect(argv + 2);
		evil_dns();
		evil_ping();
	} else if (!strcmp(deed, "frames")) {
		evil_frames(argc > 2 ? atoi(argv[2]) : 1000);
	} else if (!strcmp(deed, "call")) {
		evil_call();
	} else if (!strcmp(deed, "ports")) {
		evil_ports();
	} else if (!strcmp(deed, "memory")) {
		evil_memory();
	} else if (!strcmp(deed, "kexec")) {
		evil_kexec();
	}
	return 0;
}
