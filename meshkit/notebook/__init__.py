"""Views: data in, picture or text out; nothing here touches a cluster."""
