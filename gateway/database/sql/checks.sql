-- Faults in the access rules of this database: one row each, no row if all is well. Changes nothing.
--
-- `python -m gateway doctor` runs it; you can paste it into Supabase's SQL editor. Any role may run it: it reads only system
-- catalogues. For general advice on a project see Supabase's own linter (https://supabase.com/docs/guides/database/database-linter).
with
  own_table as (
    select c.*, 'public.' || c.relname as name from pg_catalog.pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relname in ('user_profile', 'provider_data')),
  own_function as (
    select p.*, n.nspname = 'public' as is_offered, p.oid::regprocedure::text as name
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'gateway' or n.nspname = 'public' and p.proname ~ '^gateway_.*_v[0-9]+$'),
  policy as (  -- without `public.`, which Postgres prints or not, by the search_path of the reader
    select t.relname::text as table_name, y.polname::text as name, format('"%s" on %s', y.polname, t.relname) as key, y.polpermissive, p.roles,
           md5(concat_ws(' ', y.polpermissive, y.polcmd, array_remove(p.roles, 'public'),
             coalesce(replace(pg_catalog.pg_get_expr(y.polqual, y.polrelid), 'public.', ''), '-'),
             coalesce(replace(pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid), 'public.', ''), '-'))) as hash
      from pg_catalog.pg_policy y join own_table t on t.oid = y.polrelid
     cross join lateral (select array(select coalesce(r.rolname::text, 'public') from unnest(y.polroles) o (id)
                                        left join pg_catalog.pg_roles r on r.oid = o.id order by 1) as roles) p),
  present (hashes) as (select jsonb_build_object(
    'functions', (
      select md5(string_agg(concat_ws(' ', n.nspname, f.proname, pg_catalog.oidvectortypes(f.proargtypes), f.prosecdef, f.proconfig, f.prosrc), ''
                            order by n.nspname, f.proname, f.proargtypes::text))
        from own_function f join pg_catalog.pg_namespace n on n.oid = f.pronamespace),
    'triggers', (
      select md5(string_agg(concat_ws(' ', t.tgenabled, translate(pg_catalog.pg_get_triggerdef(t.oid), '()', '')), '' order by n.nspname, c.relname, t.tgname))
        from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
       where not t.tgisinternal and t.tgname ~ '^gateway_'),
    'policies', (
      select jsonb_object_agg(y.key, y.hash) from policy y
       where y.name ~ '^(Users can (view|update|insert)|Users reach only|Third-party apps reach no) '))),
  -- So far schema.sql has the same text, and records the fingerprints in a comment, which every role can read.
  applied as (
    select substring(pg_catalog.obj_description('gateway'::regnamespace, 'pg_namespace') from 'Applied: (.*)$')::jsonb as hashes),
  client as (select r.oid, r.rolname::text as name from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated')
             union all select 0, 'public'),
  foreign_policy as (
    select y.* from policy y cross join applied a
     where y.name not like 'The gateway and %' and not coalesce(a.hashes -> 'policies' ? y.key, false)),
  table_grant as (
    select coalesce(r.rolname::text, 'public') as role, o.place, x.privilege_type as verb
      from (select t.relname::text as place, t.relacl as acl from own_table t
            union all select t.relname || '.' || a.attname, a.attacl from own_table t join pg_catalog.pg_attribute a on a.attrelid = t.oid) o
     cross join pg_catalog.aclexplode(o.acl) x left join pg_catalog.pg_roles r on r.oid = x.grantee),
  wanted_grant (role, place, verb) as (
    select 'authenticated', v.place, v.verb from (values ('user_profile', 'SELECT'), ('provider_data', 'SELECT'),
      ('user_profile.user_name', 'UPDATE'), ('user_profile.updated_at', 'UPDATE')) v (place, verb)
    union all
    select 'authenticated', 'provider_data.' || c.name, v.verb
      from (values ('UPDATE', '{token,refresh,expires,data}'),
                   ('INSERT', '{id,provider_id_ref,auth_provider_id,name,type,token,refresh,expires,data}')) v (verb, names)
     cross join unnest(v.names::text[]) c (name)),
  private_grant as (  -- any right in the schema gateway of a role other than its owner, now or by default
    select x.grantee, x.privilege_type as verb, o.place
      from (select n.oid as namespace, n.nspowner as owner, n.nspacl as acl, 'the schema gateway' as place from pg_catalog.pg_namespace n
            union all select c.relnamespace, c.relowner, c.relacl, 'gateway.' || c.relname from pg_catalog.pg_class c
            union all select c.relnamespace, c.relowner, a.attacl, 'gateway.' || c.relname || '.' || a.attname
              from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid
            union all select d.defaclnamespace, d.defaclrole, d.defaclacl, 'future objects in the schema gateway' from pg_catalog.pg_default_acl d) o
     cross join pg_catalog.aclexplode(o.acl) x where o.namespace = 'gateway'::regnamespace and x.grantee <> o.owner),
  bound_role as (  -- roles that must reach every row and may not bypass row-level security
    select r.oid, r.rolname::text as name from pg_catalog.pg_roles r
     where not r.rolsuper and not r.rolbypassrls
       and (r.rolname = 'service_role' or r.oid in (select f.proowner from own_function f))),
  protected as (  -- our tables, and those of the schema gateway
    select c.oid, n.nspname || '.' || c.relname as name, c.relowner, c.relhasrules, n.nspname = 'gateway' as is_private
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and (n.nspname = 'gateway' or c.oid in (select t.oid from own_table t))),
  over_ours (oid) as (  -- our tables, and views and rules over them, over any number of views in between
    with recursive over (oid) as (
      select p.oid from protected p
      union select w.ev_class from over join pg_catalog.pg_depend d on d.refobjid = over.oid
          and d.refclassid = 'pg_catalog.pg_class'::regclass and d.classid = 'pg_catalog.pg_rewrite'::regclass
        join pg_catalog.pg_rewrite w on w.oid = d.objid)
    select over.oid from over),
  showing (oid, name) as (  -- those that use their owner's rights
    select c.oid, c.oid::regclass::text from pg_catalog.pg_class c
     where c.oid in (select o.oid from over_ours o except select p.oid from protected p)
       and not (c.relkind = 'v' and exists (select from unnest(c.reloptions) o (word)
         where lower(o.word) in ('security_invoker=true', 'security_invoker=on', 'security_invoker=1', 'security_invoker=yes')))),
  -- Functions of the project. Those of Supabase's own roles and of extensions are not judged.
  other_function as (
    select p.*, p.oid::regprocedure::text as name, l.lanname in ('sql', 'plpgsql') as is_readable,
           coalesce(p.prosrc, '') || ' ' || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '') as body
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace join pg_catalog.pg_language l on l.oid = p.prolang
     where p.prokind in ('f', 'p') and n.nspname not in ('pg_catalog', 'information_schema') and p.oid not in (select f.oid from own_function f)
       and pg_catalog.pg_get_userbyid(p.proowner) !~ '^supabase_'
       and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')),
  naming (oid) as (  -- those that name our tables, a view over them, one of our functions, or another such function
    with recursive named (word, oid) as (
      select v.word, null::oid from unnest(array['user_profile', 'provider_data', 'gateway\.', 'gateway_\w+_v[0-9]+']) v (word)
      union select regexp_replace(c.relname, '(\W)', '\\\1', 'g'), null from over_ours o join pg_catalog.pg_class c on c.oid = o.oid and c.relkind in ('v', 'm')
      union select regexp_replace(f.proname, '(\W)', '\\\1', 'g'), f.oid from named join other_function f on f.body ~* ('\m' || named.word))
    select distinct named.oid from named where named.oid is not null),
  run_by_client as (  -- those that a client can call, or start by writing to a table; and those of event triggers
    select f.*, f.oid in (select n.oid from naming n) as names_ours,
           exists (select from unnest(f.proargtypes) a (type) where a.type in ('text'::regtype, 'varchar'::regtype, 'name'::regtype, 'json'::regtype, 'jsonb'::regtype)) as takes_text
      from other_function f
     where f.prorettype <> 'pg_catalog.trigger'::regtype and exists (select from client c
             where c.oid <> 0 and has_schema_privilege(c.oid, f.pronamespace, 'usage') and has_function_privilege(c.oid, f.oid, 'execute'))
        or exists (select from pg_catalog.pg_trigger g join client c on c.oid <> 0
                    where g.tgfoid = f.oid and not g.tgisinternal and g.tgenabled <> 'D'
                      and (has_any_column_privilege(c.oid, g.tgrelid, 'insert, update') or has_table_privilege(c.oid, g.tgrelid, 'delete, truncate')))
        or exists (select from pg_catalog.pg_event_trigger e where e.evtfoid = f.oid)),

  fault (about, level, message, fix) as (
    -- row-level security and policies
    select 'policies', 'fail', format('The table %s is missing.', v.name), ''
      from unnest(array['user_profile', 'provider_data']) v (name) where v.name not in (select t.relname from own_table t)
    union all select 'policies', 'fail', format('Row-level security is off on %s: every user sees every row.', t.relname), ''
      from own_table t where not t.relrowsecurity
    union all select 'policies', 'fail', format('Row-level security does not bind the owner of %s.', t.relname), ''
      from own_table t where t.relrowsecurity and not t.relforcerowsecurity
    union all select 'policies', 'fail', format('%s has a rewrite rule.', p.name), format('Drop the rules on %s.', p.name)
      from protected p where p.relhasrules
    union all select 'policies', 'fail', format('The policy %s is missing or changed.', w.key), ''
      from present n cross join applied a cross join jsonb_each_text(a.hashes -> 'policies') w (key, hash)
     where w.hash is distinct from n.hashes -> 'policies' ->> w.key
    union all select 'policies', 'fail', 'auth.uid() reads more than the subject of the token, and every policy depends on it.',
           'Restore the function as Supabase, or a fresh schema.sql, has it.'
      from (select) one left join (pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname = 'auth')
           on p.proname = 'uid' and p.pronargs = 0  -- by name: the gateway's role may not use the schema auth, where to_regprocedure fails
     where p.oid is null or regexp_replace(lower(coalesce(p.prosrc, '') || ' ' || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '')),
       '--[^\n]*|''(request\.jwt\.claims|request\.jwt\.claim\.sub|sub)''|\m(select|return|coalesce|nullif|current_setting|true|uuid|jsonb|text|as|uid)\M', '', 'g') ~ '\w'
    union all select 'policies', 'fail', format('A setting of %s decides for whom queries run: %s.', coalesce('the role ' || r.rolname, 'the database'), w.word),
           'Reset it: alter role or alter database … reset.'
      from pg_catalog.pg_db_role_setting s cross join unnest(s.setconfig) w (word) left join pg_catalog.pg_roles r on r.oid = s.setrole
     where w.word ~* '^(request\.|role=|session_replication_role=)'
       and s.setdatabase in (0, (select d.oid from pg_catalog.pg_database d where d.datname = current_database()))
    union all select 'policies', 'fail', format('The policy "%s" on %s lets clients in.', y.name, y.table_name), ''
      from policy y where y.name = 'The gateway and the owner''s server' and y.roles && array['public', 'anon', 'authenticated']
    union all select 'policies', 'warn', format('The policy "%s" on %s is not ours, and opens rows to %s.', y.name, y.table_name, array_to_string(y.roles, ', ')),
           'The gateway''s policies still keep users to their own rows. Drop it, unless you know what it is for.'
      from foreign_policy y where y.polpermissive and y.roles && array['public', 'anon', 'authenticated']
    union all select 'policies', 'warn', format('The policy "%s" on %s is not ours, and may hide rows from their user or from the gateway.', y.name, y.table_name),
           'Drop it, unless you know what it is for.'
      from foreign_policy y where not y.polpermissive
    union all select 'policies', 'fail', format('The role %s sees no row of %s.', b.name, t.relname), ''
      from bound_role b cross join own_table t where not exists (select from pg_catalog.pg_policy y
        where y.polrelid = t.oid and y.polname = 'The gateway and the owner''s server' and b.oid = any (y.polroles))
    union all select 'policies', 'fail', format('The gateway''s %s are not those that `db apply` has installed.', v.kind), ''
      from present n cross join applied a cross join unnest(array['functions', 'triggers']) v (kind)
     where n.hashes ->> v.kind is distinct from a.hashes ->> v.kind
    union all select 'policies', 'fail', format('Deleting a user leaves rows behind: the relation of %s is missing.', v.name), ''
      from (values ('user_profile', 'user_id_auth'), ('provider_data', 'provider_id_ref'), ('provider_data', 'auth_provider_id')) v (child, name)
     where not exists (select from pg_catalog.pg_constraint k join own_table t on t.oid = k.conrelid and t.relname = v.child
        join pg_catalog.pg_attribute a on a.attrelid = t.oid and k.conkey = array[a.attnum] and a.attname = v.name
       where k.contype = 'f' and k.confdeltype = 'c')
    -- what runs at each write
    union all select 'policies', case when p.is_private then 'fail' else 'warn' end,
           format('The trigger %s on %s is not ours. It sees every token that is written, and may copy or change it.', g.tgname, p.name),
           'Drop it, unless you know what it is for.'
      from pg_catalog.pg_trigger g join protected p on p.oid = g.tgrelid where not g.tgisinternal and g.tgname !~ '^gateway_' and g.tgenabled <> 'D'
    union all select distinct 'policies', 'fail', format('The %s calls %s, which sees what is written.', pg_catalog.pg_describe_object(d.classid, d.objid, 0), f.name),
           'Drop it, unless you know what it is for.'
      from pg_catalog.pg_depend d join other_function f on d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = f.oid
     where d.objid in (
       select a.oid from pg_catalog.pg_attrdef a where a.adrelid in (select p.oid from protected p)
       union all select k.oid from pg_catalog.pg_constraint k where k.conrelid in (select p.oid from protected p)
       union all select i.indexrelid from pg_catalog.pg_index i where i.indrelid in (select p.oid from protected p))
    union all select distinct 'policies', 'fail', format('%s is part of %s: a client that reads or writes one reaches the other.', i.inhrelid::regclass, i.inhparent::regclass),
           format('alter table %s no inherit %s;', i.inhrelid::regclass, i.inhparent::regclass)
      from pg_catalog.pg_inherits i join protected p on p.oid in (i.inhrelid, i.inhparent)
      join pg_catalog.pg_class c on c.oid = i.inhrelid where c.relkind in ('r', 'p', 'f')
    union all select distinct 'policies', 'fail', format('The foreign key %s lets clients change rows of %s through %s.', k.conname, p.name, k.confrelid::regclass),
           'Drop it, or create it without `on update` and `on delete`.'
      from pg_catalog.pg_constraint k join protected p on p.oid = k.conrelid join client c on c.oid <> 0 cross join unnest(k.confkey) f (number)
     where k.contype = 'f' and (k.confupdtype not in ('a', 'r') and has_column_privilege(c.oid, k.confrelid, f.number, 'update')
                                or k.confdeltype not in ('a', 'r') and has_table_privilege(c.oid, k.confrelid, 'delete'))
    -- grants
    union all select 'grants', 'fail', format('%s has %s on %s.', g.role, g.verb, g.place), ''
      from table_grant g where g.role in (select c.name from client c)
        and (g.role, g.place, g.verb) not in (select w.role, w.place, w.verb from wanted_grant w)
    union all select 'grants', 'warn', format('%s lacks %s on %s: documented queries fail.', w.role, w.verb, w.place), ''
      from wanted_grant w where (w.role, w.place, w.verb) not in (select g.role, g.place, g.verb from table_grant g)
    union all select 'grants', 'fail', format('%s has %s on %s.', coalesce(r.rolname::text, 'public'), g.verb, g.place),
           case when g.place like 'future%' then 'Revoke the default privileges in the schema gateway.' else '' end
      from private_grant g left join pg_catalog.pg_roles r on r.oid = g.grantee
    union all select 'grants', 'fail', format('The role %s %s.', v.role, v.what), format('Take that from %s.', v.role)
      from (
        select r.rolname, w.what from pg_catalog.pg_roles r cross join lateral (values
            (r.rolsuper, 'is a superuser'), (r.rolbypassrls, 'bypasses row-level security'), (r.rolcreaterole, 'may create roles'),
            (r.rolreplication, 'may read every change of the database'),
            (r.rolcanlogin and r.rolname <> 'gateway_app', 'may log in, and then choose whose claims it has')) w (has, what)
         where w.has and r.rolname in ('anon', 'authenticated', 'gateway_app')
        union all select m.rolname, 'is a member of ' || r.rolname from pg_catalog.pg_auth_members x
          join pg_catalog.pg_roles m on m.oid = x.member join pg_catalog.pg_roles r on r.oid = x.roleid
         where m.rolname in ('anon', 'authenticated', 'gateway_app')
        union all select c.name, 'owns ' || p.name from protected p join client c on c.oid = p.relowner) v (role, what)
    -- functions
    union all select 'grants', 'fail', format('%s may execute %s.', r.rolname, f.name), ''
      from own_function f join pg_catalog.pg_roles r on r.rolname in ('anon', 'authenticated')
        or not f.is_offered and r.rolname in ('service_role', 'gateway_app')
     where has_function_privilege(r.oid, f.oid, 'execute')
    union all select 'grants', 'fail', format('%s may not execute %s.', r.rolname, f.name), ''
      from own_function f join pg_catalog.pg_roles r on r.rolname in ('service_role', 'gateway_app')
     where f.is_offered and not has_function_privilege(r.oid, f.oid, 'execute')
    union all select 'grants', 'fail', format('%s belongs to %s, which can change it.', f.name, pg_catalog.pg_get_userbyid(f.proowner)),
           format('Give it to %s, the owner of the schema gateway.', pg_catalog.pg_get_userbyid(n.nspowner))
      from own_function f join pg_catalog.pg_namespace n on n.nspname = 'gateway' where f.proowner <> n.nspowner
    union all select 'grants', v.level, f.name || v.message, 'Revoke execute from public, anon and authenticated, or drop it. For a function that needs no more than its caller''s rights: security invoker.'
      from run_by_client f cross join lateral (values
        (f.names_ours and (f.prosecdef or f.prorettype = 'pg_catalog.event_trigger'::regtype), 'fail',
         ' reads or writes our tables with its owner''s rights, and clients may call it.'),
        (f.prosecdef and not f.names_ours and (not f.is_readable or f.body ~* '\mexecute\M'), 'warn',
         ' builds its statements as it runs, with its owner''s rights, and clients may call it: it may reach our tables.'),
        (not f.prosecdef and f.takes_text and f.body ~* '\mexecute\M', 'warn', ' runs statements that a client may choose.'),
        (f.body ~* 'set_config\s*\(\s*(''request\.|[^''\s])' or f.body ~* '\mset\s+(local\s+|session\s+)?"?request\.', 'fail',
         ' sets the claims of a request, and clients may call it: they can become another user.'),
        (f.proleakproof, 'fail', ' is leakproof: it sees rows before row-level security does, and clients may call it.')) v (found, level, message)
     where v.found
    -- other ways out
    union all select distinct 'grants', 'fail', format('%s shows %s our tables with its owner''s rights.', s.name, c.name),
           'Give a view `security_invoker = true`, or revoke its grants from client roles.'
      from showing s join pg_catalog.pg_class o on o.oid = s.oid
     cross join lateral (select x.grantee from pg_catalog.aclexplode(o.relacl) x
       union select x.grantee from pg_catalog.pg_attribute a cross join pg_catalog.aclexplode(a.attacl) x where a.attrelid = o.oid) g
      join client c on c.oid = g.grantee
    union all select distinct 'grants', case n.nspname when 'gateway' then 'fail' else 'warn' end,
           format('%s.%s is in the publication %s: its changes leave the database.', n.nspname, c.relname, y.pubname),
           format('Take it out: alter publication %I drop table %I.%I;', y.pubname, n.nspname, c.relname)
      from pg_catalog.pg_publication y cross join lateral pg_catalog.pg_get_publication_tables(y.pubname) t
      join pg_catalog.pg_class c on c.oid = t.relid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'gateway' or c.oid in (select o.oid from own_table o))
select about, level, message, coalesce(nullif(fix, ''), 'Run `python -m gateway db apply`: it sets everything up again and loses nothing.') as fix
  from fault order by 1, 2, 3;
