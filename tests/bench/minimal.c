/*
 * minimal.c: the floor under vmbr-helper. A static program that makes the
 * system calls which give QEMU a TAP on a bridge, and nothing else: no access
 * list, no giving up of privilege, no check of anything. It shall never be
 * installed.
 *
 * usage: minimal --use-vnet --fd=N --br=NAME   (in this order)
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void must(int result, int step)
{
    if (result < 0)
        _exit(step);
}

int main(int argc, char **argv)
{
    if (argc != 4 || strncmp(argv[2], "--fd=", 5) || strncmp(argv[3], "--br=", 5))
        return 2;
    int client = atoi(argv[2] + 5);
    const char *bridge = argv[3] + 5;

    int tap = open("/dev/net/tun", O_RDWR);
    must(tap, 10);
    struct ifreq port = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    strcpy(port.ifr_name, "tap%d");
    must(ioctl(tap, TUNSETIFF, &port), 11);

    int control = socket(AF_INET, SOCK_DGRAM, 0);
    must(control, 12);
    struct ifreq request = {0};
    strncpy(request.ifr_name, bridge, IFNAMSIZ - 1);
    must(ioctl(control, SIOCGIFMTU, &request), 13);
    memcpy(request.ifr_name, port.ifr_name, IFNAMSIZ);
    must(ioctl(control, SIOCSIFMTU, &request), 14);

    /* A high MAC, so that the bridge does not take it for its own. */
    must(ioctl(control, SIOCGIFHWADDR, &request), 15);
    request.ifr_hwaddr.sa_data[0] = (char)0xfe;
    must(ioctl(control, SIOCSIFHWADDR, &request), 16);

    must(ioctl(control, SIOCGIFINDEX, &request), 17);
    struct ifreq join = {.ifr_ifindex = request.ifr_ifindex};
    strncpy(join.ifr_name, bridge, IFNAMSIZ - 1);
    must(ioctl(control, SIOCBRADDIF, &join), 18);

    must(ioctl(control, SIOCGIFFLAGS, &request), 19);
    request.ifr_flags |= IFF_UP;
    must(ioctl(control, SIOCSIFFLAGS, &request), 20);

    char byte = 0;
    struct iovec data = {&byte, 1};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } passed = {0};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = passed.room,
        .msg_controllen = sizeof passed.room,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &tap, sizeof(int));
    must((int)sendmsg(client, &message, 0), 21);
    return 0;
}
