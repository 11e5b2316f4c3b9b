"""The recorded request fields are those of the pinned clients."""

import unittest

import published


class Published(unittest.TestCase):
    def test_the_records_are_what_the_clients_publish(self):
        for client in published.REQUESTS:
            with self.subTest(client):
                recorded = published.path(client).read_text()
                found = published.text(published.record(client))
                self.assertEqual(found, recorded, "`python tests/sdk/python/published.py` records them anew")


if __name__ == "__main__":
    unittest.main()
